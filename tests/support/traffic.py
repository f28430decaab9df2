"""Calls that go on while something breaks, and the account that is given of them afterwards."""

import secrets
import threading
from types import TracebackType

import httpx

from tests.support.deadline import until
from tests.support.retrying import RetryingClient

SETTLED_S = 30
"""Until a dead gateway's calls are found and counted: its lease has to run out first."""

_PACE_S = 0.1
# The list of recent calls, in which each of them is looked for, has room for a hundred.
_MOST_CALLS = 80
# The statuses that say that a call was not admitted. Any other failure leaves it open.
_NOT_ADMITTED = (401, 402, 403, 404, 409, 429)


class Traffic:
    """One user who calls one agent again and again until the block ends.

    Every call has a trace id of its own. `answered` were answered 200; `unclear` were cut off or
    failed on the way, so they may have been admitted or not.
    """

    def __init__(self, user: RetryingClient, agent_id: str) -> None:
        self.answered: set[str] = set()
        self.unclear: set[str] = set()
        self._user = user
        self._agent_id = agent_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call_on, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=70)
        assert not self._thread.is_alive(), "a call hangs"

    def call(self) -> str | None:
        """Make one call and remember what came of it; return the agent's text, if it answered."""
        trace_id = f"call-{secrets.token_hex(8)}"
        try:
            answer = self._user.caller.post_invoke(self._agent_id, "Who is it?", traceId=trace_id)
        except httpx.TransportError:
            self.unclear.add(trace_id)
            return None
        if answer.status_code == 200:
            self.answered.add(trace_id)
            return answer.json()["output"]["text"]
        if answer.status_code not in _NOT_ADMITTED:
            self.unclear.add(trace_id)
        return None

    def check_books(self, *, admitted_unanswered: int | None = None) -> None:
        """Every answered call counts once; an unclear one at most once; nothing else counts.

        `admitted_unanswered` says exactly how many of the unclear ones were admitted, where that
        is known. The user must not have made other calls.
        """

        least = len(self.answered) + (admitted_unanswered or 0)
        until(lambda: len(self._told()) >= least, "all calls to be counted", seconds=SETTLED_S)
        until(
            lambda: self._used() == len(self._told()),
            "usage to be what the list of calls says",
            seconds=SETTLED_S,
        )
        told = self._told()
        assert len(told) == len(set(told)), "a call was counted twice"
        assert self.answered <= set(told) <= self.answered | self.unclear
        if admitted_unanswered is not None:
            assert self._used() == least

    def _told(self) -> list[str]:
        """Trace ids of the calls that were counted."""
        return [e["traceId"] for e in self._user.get("/v1/metrics/recent?limit=100")["events"]]

    def _used(self) -> int:
        return self._user.get("/v1/usage/current")["usage"]["requests"]

    def _call_on(self) -> None:
        while not self._stop.wait(_PACE_S):
            if len(self.answered) + len(self.unclear) < _MOST_CALLS:
                self.call()
