"""A user who retries requests without a clear answer, with the same idempotency key."""

import secrets
import time
from collections.abc import Collection
from typing import Any

import httpx

from tests.support.caller import Caller

PATIENCE_S = 60
_AGAIN_AFTER_S = 0.05


def may_be_retried(answer: httpx.Response, *, strict: bool) -> bool:
    """Whether a failure is of an outage; a strict one is the service's own word."""
    if strict and answer.status_code != 503:
        return False
    return answer.status_code != 500 and bool(answer.json()["error"]["retryable"])


class RetryingClient:
    """One user's requests through outages. Each gives the success in the end, or fails.

    A `strict` one is for outages in which no server dies under a request: all that may happen then
    is a 503 that says that it can be retried. An INTERNAL error never may.
    """

    def __init__(self, caller: Caller, *, strict: bool = False) -> None:
        self.caller = caller
        self._strict = strict

    def get(self, path: str) -> dict[str, Any]:
        return self._send("GET", path)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        return self._send("POST", path, body, {"Idempotency-Key": secrets.token_hex(16)})

    def delete(self, path: str) -> None:
        """Delete; a repeat finds nothing when an earlier try got through unheard."""
        self._send("DELETE", path, done=(404,))

    def invoke(self, agent_id: str, prompt: str) -> dict[str, Any]:
        """Invoke, retrying transient failures; returns the answer of the last attempt."""
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self.caller.post_invoke(agent_id, prompt)).status_code != 200:
            assert answer.status_code != 500, answer.text
            assert time.monotonic() < deadline, answer.text
            time.sleep(_AGAIN_AFTER_S)
        return answer.json()

    def deploy(self, agent_id: str, **fields: Any) -> dict[str, Any]:
        """Deploy, and wait until the deployment has ended, well or not."""
        began = self.post(f"/v1/agents/{agent_id}/deploy", **fields)["deployment"]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            deployment = self.get(f"/v1/deployments/{began['id']}")["deployment"]
            if deployment["status"] != "deploying":
                return deployment
            assert time.monotonic() < deadline, f"still deploying after {PATIENCE_S} s"
            time.sleep(_AGAIN_AFTER_S)

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        done: Collection[int] = (),
    ) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.caller.http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                problem = repr(error)
                assert not self._strict, f"{method} {path}: {problem}"
            else:
                if answer.is_success or answer.status_code in done:
                    return answer.json()
                problem = f"{answer.status_code} {answer.text}"
                again = may_be_retried(answer, strict=self._strict)
                assert again, f"{method} {path}: {problem}"
            assert time.monotonic() < deadline, f"{method} {path}: {problem}"
            time.sleep(_AGAIN_AFTER_S)
