"""The session store of a running stack, seen as a Worker of any agent sees it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from tests.support.stack import Stack

_numbers = itertools.count(1)

# Passes each request on to the session Worker, in the agent's name.
_MODULE = """
export default {
  fetch(request, env) {
    const path = new URL(request.url).pathname;
    return env.SESSIONS.fetch(`https://sessions${path}`, { method: "POST", body: request.body });
  },
};
"""


class Sessions:
    """One agent's sessions. Every operation gives the store's status and answer."""

    def __init__(self, http: httpx.Client, origin: str, host: str) -> None:
        self._http = http
        self._origin = origin
        self._host = host

    def ask(self, operation: str, **question: Any) -> tuple[int, dict[str, Any]]:
        url = f"{self._origin}/v1/{operation}"
        answer = self._http.post(url, json=question, headers={"Host": self._host})
        return answer.status_code, answer.json()

    def history(self, session_id: str) -> list[str]:
        """What was said in a session, oldest first."""
        status, answer = self.ask("history", sessionId=session_id)
        assert status == 200, answer
        return [message["content"] for message in answer["messages"]]


@contextmanager
def sessions_of(stack: Stack, agent_id: str) -> Iterator[Sessions]:
    """A Worker of this test's own, bound to the session Worker as the agent's deployments are."""
    known = stack.status()["cloudflare"]
    name = f"sessions-seen-by-test-{next(_numbers)}"
    with httpx.Client(timeout=20) as http:
        headers = {"Authorization": f"Bearer {known['apiToken']}"}
        scripts = f"{known['apiBaseUrl']}/accounts/{known['accountId']}/workers/scripts"
        listed = http.get(scripts, headers=headers).json()["result"]
        [store] = [s["id"] for s in listed if s["id"].startswith("whs-sessions-")]
        binding = {
            "type": "service",
            "name": "SESSIONS",
            "service": store,
            "props": {"agentId": agent_id},
        }
        metadata = {
            "main_module": "main.mjs",
            "compatibility_date": "2026-01-01",
            "bindings": [binding],
        }
        files = {
            "metadata": (None, msgspec.json.encode(metadata), "application/json"),
            "main.mjs": ("main.mjs", _MODULE, "application/javascript+module"),
        }
        http.put(f"{scripts}/{name}", files=files, headers=headers).raise_for_status()
        try:
            url = f"{scripts}/{name}/subdomain"
            http.post(url, json={"enabled": True}, headers=headers).raise_for_status()
            yield Sessions(http, stack.origin, f"{name}.local.workers.dev")
        finally:
            http.delete(f"{scripts}/{name}", headers=headers).raise_for_status()
