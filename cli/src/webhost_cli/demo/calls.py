"""The demo's calls over HTTP; each is shown, and kept to be checked against the usage later."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webhost_cli.client import Api, Json
from webhost_cli.demo.narrator import DemoFailed, Narrator
from webhost_cli.errors import ApiError, ExitCode

IN_FORCE_S = 10.0
"""How long a pointer's change may take to reach the gateway, on a machine that is busy."""
_ASK_EVERY_S = 0.02


@dataclass(frozen=True)
class Answer:
    """What one invocation gave. `arrivals` are seconds after the call, one per delta."""

    trace_id: str
    session_id: str
    text: str
    tokens: int
    deployment_id: str | None = None
    arrivals: tuple[float, ...] = ()


@dataclass
class Calls:
    """One user's requests; `made` holds every invocation that was answered."""

    api: Api
    narrator: Narrator
    made: list[Answer] = field(default_factory=list[Answer])

    def get(self, path: str, **parameters: Any) -> Json:
        self.narrator.sent(f"GET {path}", parameters or None)
        began = time.monotonic()
        answer = self.api.get(path, **parameters)
        return self._got(began, answer)

    def start(self, path: str, body: Mapping[str, Any]) -> Json:
        self.narrator.sent(f"POST {path}", body)
        began = time.monotonic()
        return self._got(began, self.api.start(path, body))

    def delete(self, path: str) -> Json:
        self.narrator.sent(f"DELETE {path}")
        began = time.monotonic()
        return self._got(began, self.api.delete(path))

    def invoke(self, agent_id: str, prompt: str, session_id: str | None = None) -> Answer:
        """One call, answered as a whole."""
        path, body = f"/v1/invoke/{agent_id}", _body(prompt, session_id)
        self.narrator.sent(f"POST {path}", body)
        began = time.monotonic()
        answer = self._got(began, self.api.post(path, body))
        return self._keep(
            Answer(
                trace_id=answer["traceId"],
                session_id=answer["sessionId"],
                text=answer["output"]["text"],
                tokens=answer["usage"]["tokens"],
            )
        )

    def stream(self, agent_id: str, prompt: str, session_id: str | None = None) -> Answer:
        """One call, answered piece by piece; every event is shown with its arrival time."""
        path, body = f"/v1/invoke/{agent_id}/stream", _body(prompt, session_id)
        self.narrator.sent(f"POST {path}", body)
        return self._keep(self._streamed(path, body, show=True))

    def wait_until_calls_reach(self, agent_id: str, deployment_id: str) -> None:
        """Call until the gateway follows the agent's pointer. These calls count like any other."""
        path, body = f"/v1/invoke/{agent_id}/stream", _body("Which version answers?", None)
        began = time.monotonic()
        while (asked_s := time.monotonic() - began) < IN_FORCE_S:
            try:
                answer = self._keep(self._streamed(path, body, show=False))
            except ApiError as error:
                # The gateway may not know the agent, or any of its deployments, yet.
                if error.exit_code not in (ExitCode.NOT_FOUND, ExitCode.CONFLICT):
                    raise
                answer = None
            if answer is not None and answer.deployment_id == deployment_id:
                found = f"a call made {asked_s * 1000:.0f} ms later reaches {deployment_id}"
                self.narrator.holds(found, True)
                return
            time.sleep(_ASK_EVERY_S)
        raise DemoFailed(f"calls do not reach {deployment_id} after {IN_FORCE_S:g} s")

    def _streamed(self, path: str, body: Mapping[str, Any], *, show: bool) -> Answer:
        began = time.monotonic()
        names: list[str] = []
        pieces: list[str] = []
        arrivals: list[float] = []
        data: dict[str, Json] = {}
        for event in self.api.stream(path, body):
            arrived = time.monotonic() - began
            names.append(event.event)
            data[event.event] = json.loads(event.data)
            if event.event == "delta":
                pieces.append(data["delta"]["text"])
                arrivals.append(arrived)
            if show:
                self.narrator.got(f"{arrived * 1000:7.1f} ms  {event.event}", data[event.event])
        expected = ["meta", *["delta"] * len(pieces), "usage", "done"]
        if names != expected:
            raise DemoFailed(f"the stream's events\n  expected: {expected}\n  actual:   {names}")
        meta = data["meta"]
        return Answer(
            trace_id=meta["traceId"],
            session_id=meta["sessionId"],
            text="".join(pieces),
            tokens=data["usage"]["tokens"],
            deployment_id=meta["deploymentId"],
            arrivals=tuple(arrivals),
        )

    def _keep(self, answer: Answer) -> Answer:
        self.made.append(answer)
        return answer

    def _got(self, began: float, answer: Json) -> Json:
        self.narrator.got(f"{(time.monotonic() - began) * 1000:.1f} ms", answer)
        return answer


def _body(prompt: str, session_id: str | None) -> Json:
    body: Json = {"input": {"prompt": prompt}}
    return body if session_id is None else body | {"sessionId": session_id}
