"""Telemetry reports that a test posts itself, until each is acknowledged."""

import random
import secrets
import threading
import time
from typing import Any

import httpx
import msgspec
from webhost_contracts import ids
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from tests.support.keys import StackKeys
from tests.support.retrying import may_be_retried
from tests.support.stack import Stack

_PACE_S = 0.3
_AGAIN_AFTER_S = 0.1
_PATIENCE_S = 60
# The list in which each is looked for afterwards has room for a hundred, calls included.
_MOST = 20
_MOST_TOKENS = 5_000


def report_of(user_id: str, agent_id: str, deployment_id: str, **changes: Any) -> bytes:
    """A report as this deployment's Worker would make it, with changes to its fields."""
    report = {
        "userId": user_id,
        "agentId": agent_id,
        "deploymentId": deployment_id,
        "runtimeProvider": "cloudflare",
        "timestampMs": now_ms(),
        "eventId": new_id(ids.INVOCATION, now_ms()),
        "requests": 1,
        "llmTokens": 10,
        "computeMs": 20,
        "errors": 0,
    }
    return msgspec.json.encode(report | changes)


class Reports:
    """Reports as a deployment's Worker would post them, one after the other until the block ends.

    `acknowledged` is what was answered 202, by event id: how many tokens it states. Each report
    is posted, unchanged, until it is: none is in doubt afterwards. With `repeats`, every second
    time it is one that was acknowledged before. Where it is `strict`, no server dies under a
    report: it is answered, and refused by ingest's own word alone.
    """

    def __init__(
        self,
        stack: Stack,
        deployment: dict[str, Any],
        chance: random.Random,
        *,
        pace_s: float = _PACE_S,
        repeats: bool = False,
        strict: bool = False,
    ) -> None:
        self.acknowledged: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._bodies: list[tuple[str, bytes]] = []
        self._pace_s = pace_s
        self._repeats = repeats
        self._strict = strict
        self._stack = stack
        self._keys = StackKeys(stack)
        self._deployment = deployment
        self._chance = chance
        self._stop = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._post_on, daemon=True)

    def __enter__(self) -> "Reports":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=_PATIENCE_S + 10)
        assert not self._thread.is_alive(), "a report hangs"
        assert self._problem is None, self._problem

    def _post_on(self) -> None:
        with httpx.Client(timeout=10) as http:
            while not self._stop.wait(self._pace_s) and self._problem is None:
                if len(self.acknowledged) < _MOST:
                    self._post(http, *self._new())
                if self._repeats and self._bodies:
                    self._post(http, *self._chance.choice(self._bodies))

    def _new(self) -> tuple[str, bytes]:
        event_id, tokens = f"own-{secrets.token_hex(8)}", self._chance.randint(1, _MOST_TOKENS)
        deployment = self._deployment
        body = report_of(
            deployment["userId"],
            deployment["agentId"],
            deployment["id"],
            runtimeProvider=deployment["runtimeProvider"],
            eventId=event_id,
            llmTokens=tokens,
            computeMs=1,
        )
        self._tokens[event_id] = tokens
        return event_id, body

    def _post(self, http: httpx.Client, event_id: str, body: bytes) -> None:
        url = f"{self._stack.origin}/v1/telemetry/report"
        headers = self._keys.report_headers(self._deployment["id"], body)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = http.post(url, content=body, headers=headers)
            except httpx.TransportError as error:
                said = repr(error)
                if self._strict:
                    self._problem = f"a report was not answered: {said}"
                    return
            else:
                if answer.status_code == 202:
                    if event_id not in self.acknowledged:
                        self.acknowledged[event_id] = self._tokens[event_id]
                        self._bodies.append((event_id, body))
                    return
                said = f"{answer.status_code} {answer.text}"
                if answer.status_code < 500 or not may_be_retried(answer, strict=self._strict):
                    self._problem = f"a good report was refused: {said}"
                    return
            if time.monotonic() > deadline:
                self._problem = f"not acknowledged in {_PATIENCE_S} s: {said}"
                return
            time.sleep(_AGAIN_AFTER_S)
