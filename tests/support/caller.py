"""One signed-in user's calls over HTTP, for tests: plain httpx, and the common sequences."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

DEPLOY_S = 60
IN_FORCE_S = 10
"""How long a deployment may take, and a pointer's change until a gateway follows it."""


class Caller:
    """A user at the public origin. `http` is for any request; the token is sent with each."""

    def __init__(self, origin: str, token: str) -> None:
        self.token = token
        self.http = httpx.Client(
            base_url=origin, headers={"Authorization": f"Bearer {token}"}, timeout=65
        )

    def me(self) -> dict[str, Any]:
        return _ok(self.http.get("/v1/me"))["user"]

    def create_agent(self, name: str = "agent", **fields: Any) -> dict[str, Any]:
        return _ok(self.http.post("/v1/agents", json={"name": name, **fields}))["agent"]

    def agent(self, agent_id: str) -> dict[str, Any]:
        return _ok(self.http.get(f"/v1/agents/{agent_id}"))["agent"]

    def start_deploy(self, agent_id: str, **fields: Any) -> dict[str, Any]:
        """Ask for a deployment: the template, unless `moduleCode` is given."""
        return _ok(self.http.post(f"/v1/agents/{agent_id}/deploy", json=fields))["deployment"]

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        return _ok(self.http.get(f"/v1/deployments/{deployment_id}"))["deployment"]

    def deploy_ended(self, deployment_id: str) -> dict[str, Any]:
        """Wait until a deployment has ended, well or not."""
        deadline = time.monotonic() + DEPLOY_S
        while (deployment := self.deployment(deployment_id))["status"] == "deploying":
            assert time.monotonic() < deadline, f"still deploying after {DEPLOY_S} s"
            time.sleep(0.05)
        return deployment

    def deploy(self, agent_id: str, **fields: Any) -> dict[str, Any]:
        """Deploy, and wait until it answers calls. Fails if the deployment does."""
        deployment = self.deploy_ended(self.start_deploy(agent_id, **fields)["id"])
        assert deployment["status"] in ("active", "inactive"), deployment
        return deployment

    def post_invoke(
        self, agent_id: str, prompt: str, *, key: str | None = None, **fields: Any
    ) -> httpx.Response:
        body = {"input": {"prompt": prompt}, **fields}
        headers = None if key is None else {"Idempotency-Key": key}
        return self.http.post(f"/v1/invoke/{agent_id}", json=body, headers=headers)

    def invoke(self, agent_id: str, prompt: str, **fields: Any) -> dict[str, Any]:
        """Invoke, giving a gateway the time to hear of a new agent or deployment."""
        deadline = time.monotonic() + IN_FORCE_S
        while (answer := self.post_invoke(agent_id, prompt, **fields)).status_code in (404, 409):
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)
        return _ok(answer)

    def stream(
        self, agent_id: str, prompt: str, **fields: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Invoke, and give each event (its name, its data) when it arrives."""
        body = {"input": {"prompt": prompt}, **fields}
        path = f"/v1/invoke/{agent_id}/stream"
        with self.http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                response.read()
            _ok(response, parse=False)
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    def usage(self) -> dict[str, Any]:
        return _ok(self.http.get("/v1/usage/current"))

    def recent_calls(self, **parameters: Any) -> list[dict[str, Any]]:
        parameters = {"limit": 100, **parameters}
        return _ok(self.http.get("/v1/metrics/recent", params=parameters))["events"]


def _ok(response: httpx.Response, *, parse: bool = True) -> Any:
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    return response.json() if parse else None
