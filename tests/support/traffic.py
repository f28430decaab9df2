"""Calls that continue while something breaks, and how they are accounted for afterwards."""

import math
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from webhost_kit.clock import now_ms

from tests.support.faults import Death
from tests.support.retrying import RetryingClient

SETTLED_S = 30
"""Until a dead gateway's calls are found and counted: its lease has to run out first."""

PROMPT = "Who is it?"
PACE_S = 0.1
"""Between two calls."""
# The list of recent calls, in which each of them is looked for, has room for a hundred.
_MOST_CALLS = 70
# The statuses that say that a call was not admitted. Any other failure leaves it open, but a
# gateway's own refusal: the public origin answers 503 also where a gateway died under the call.
_NOT_ADMITTED = (401, 402, 403, 404, 409, 429)
_CUT_OFF = "The service is unavailable."
_CHARACTERS_PER_TOKEN = 4


def tokens_of(text: str) -> int:
    """What the Worker states for a call with this answer, whose module states nothing."""
    return math.ceil((len(PROMPT) + len(text)) / _CHARACTERS_PER_TOKEN)


def _is_refusal(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and _CUT_OFF not in answer.text


@dataclass(frozen=True)
class Answer:
    text: str
    at_ms: int


class Traffic:
    """One user who calls one agent again and again until the block ends.

    Every call has a trace id of its own. `answered` were answered 200; `unclear` were cut off or
    failed on the way, so they may have been admitted or not. `called_ms` says when each was made.
    Where they are `keyed`, every second
    one has an idempotency key.
    """

    def __init__(
        self,
        user: RetryingClient,
        agent_id: str,
        *,
        pace_s: float = PACE_S,
        keyed: bool = False,
    ) -> None:
        self.answered: dict[str, Answer] = {}
        self.unclear: set[str] = set()
        self.called_ms: list[int] = []
        self._user = user
        self._agent_id = agent_id
        self._pace_s = pace_s
        self._keyed = keyed
        self._calls = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call_on, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=70)
        assert not self._thread.is_alive(), "a call hangs"

    def call(self) -> str | None:
        """Make one call and remember what came of it; return the agent's text, if it answered."""
        trace_id = f"call-{secrets.token_hex(8)}"
        self._calls += 1
        self.called_ms.append(now_ms())
        key = trace_id if self._keyed and self._calls % 2 else None
        try:
            answer = self._user.caller.post_invoke(
                self._agent_id, PROMPT, key=key, traceId=trace_id
            )
        except httpx.TransportError:
            self.unclear.add(trace_id)
            return None
        if answer.status_code == 200:
            text = answer.json()["output"]["text"]
            self.answered[trace_id] = Answer(text, now_ms())
            return text
        if answer.status_code not in _NOT_ADMITTED and not _is_refusal(answer):
            self.unclear.add(trace_id)
        return None

    def until_answered(self, text: str, *, seconds: float) -> None:
        """Call, at its pace, until the agent answers this."""
        deadline = time.monotonic() + seconds
        while self.call() != text:
            assert time.monotonic() < deadline, f"waited {seconds} s for the answer {text!r}"
            time.sleep(2 * self._pace_s)

    def check_usage(
        self,
        *,
        possible_texts: Collection[str],
        deaths: Sequence[Death] = (),
        reports: dict[str, int] | None = None,
        admitted_unanswered: int | None = None,
    ) -> None:
        """Every answered call counts once, with its Worker's report; an unclear one at most once.

        A report may be missing only where one of `deaths` says that the contract permits it.
        `reports` are acknowledged telemetry events by id, with their tokens. `admitted_unanswered`
        says how many unclear calls were admitted, where that is known. The user made no others.
        """
        expected = _Expected(self, possible_texts, deaths, reports or {}, admitted_unanswered)
        deadline = time.monotonic() + SETTLED_S
        while problems := expected.compare(self._user):
            assert time.monotonic() < deadline, "\n".join(problems[:5])
            time.sleep(0.2)

    def _call_on(self) -> None:
        while not self._stop.wait(self._pace_s):
            if len(self.answered) + len(self.unclear) < _MOST_CALLS:
                self.call()


@dataclass
class _Expected:
    traffic: Traffic
    possible_texts: Collection[str]
    deaths: Sequence[Death]
    reports: dict[str, int]
    admitted_unanswered: int | None
    problems: list[str] = field(default_factory=list[str])

    def compare(self, user: RetryingClient) -> list[str]:
        """Hold what billing says against what must be; return what differs, nothing if all fits."""
        self.problems = []
        events = user.get("/v1/metrics/recent?limit=100")["events"]
        used = user.get("/v1/usage/current")["usage"]
        own = {e["eventId"]: e for e in events if e.get("eventId") in self.reports}
        calls = {e["traceId"]: e for e in events if "traceId" in e}
        self.need(len(own) + len(calls) == len(events), "something was counted twice")
        for name, total in (("requests", "requests"), ("llmTokens", "llmTokens")):
            listed = sum(event[name] for event in events)
            self.need(used[total] == listed, f"{name}: {used[total]} in all, {listed} listed")
        self.need(own.keys() == self.reports.keys(), "an acknowledged report is missing")
        for event_id, event in own.items():
            self.need(event["llmTokens"] == self.reports[event_id], f"wrong tokens: {event}")
        answered, unclear = self.traffic.answered, self.traffic.unclear
        self.need(calls.keys() >= answered.keys(), "an answered call is missing")
        self.need(calls.keys() <= answered.keys() | unclear, "a refused call was counted")
        if self.admitted_unanswered is not None:
            found = len(calls.keys() & unclear)
            self.need(found == self.admitted_unanswered, f"{found} unanswered calls were counted")
        for trace_id, event in calls.items():
            self.check_call(answered.get(trace_id), event)
        return self.problems

    def check_call(self, answer: Answer | None, event: dict[str, Any]) -> None:
        tokens, reported = event["llmTokens"], event["source"] != "gateway"
        if answer is None:
            # Where its caller was gone before the agent was called, or before that answered.
            possible = {0}
            if reported:
                possible |= {tokens_of(text) for text in ("", *self.possible_texts)}
            self.need(tokens in possible, f"unclear, with impossible tokens: {event}")
            return
        if event["source"] != "both":
            lost = any(death.may_lose_report(answer.at_ms) for death in self.deaths)
            self.need(lost and event["source"] == "gateway", f"half of it is missing: {event}")
        self.need(tokens == (tokens_of(answer.text) if reported else 0), f"wrong tokens: {event}")

    def need(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)
