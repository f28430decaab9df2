"""An api as a real process, with a real NATS, Postgres and issuer around it.

The tests play the deployer and billing: they read the commands and state the facts.
"""

import itertools
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from webhost_contracts import ids, subjects, wire
from webhost_contracts.commands import Command
from webhost_contracts.events import Event
from webhost_contracts.events.base import Envelope
from webhost_kit.keys import base64url
from webhost_kit.sealing import public_half

from tests.support import harness
from tests.support.deadline import eventually
from tests.support.issuer import TestIssuer
from tests.support.service import environment

ORIGIN = "https://app.example"


@dataclass
class Key:
    """An API key, as its user got it, and a client that uses it."""

    id: str
    token: str
    http: httpx.AsyncClient


MISSING = "z" * 26
"""The suffix of ids that nothing has."""
SECRETS_KEY = secrets.token_bytes(32)
"""The private key that what the api seals opens with."""
KEYS = {
    "SECRETS_PUBLIC_KEY": f"s1:{base64url(public_half(SECRETS_KEY))}",
    "RESPONSE_KEYS": f"r1:{base64url(secrets.token_bytes(32))}",
}
"""Those that every api process needs, the same for all."""


class User:
    """One signed-in user's HTTP client, and the common calls."""

    def __init__(self, http: httpx.AsyncClient, user_id: str, harness: "Harness") -> None:
        self.http = http
        self.harness = harness
        self.id = user_id
        self._names = itertools.count(1)

    async def create(self, **fields: Any) -> dict[str, Any]:
        fields = {"name": f"agent {next(self._names)}", **fields}
        return ok(await self.http.post("/v1/agents", json=fields), 201)["agent"]

    async def agent(self, agent_id: str) -> dict[str, Any]:
        return ok(await self.http.get(f"/v1/agents/{agent_id}"))["agent"]

    async def deploy(self, agent_id: str, **fields: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/v1/agents/{agent_id}/deploy", json=fields)
        return ok(answer, 202)["deployment"]

    async def key(self, *scopes: str, **fields: Any) -> Key:
        """Make an API key, by default for everything."""
        body = {"name": "a key", "scopes": scopes or ("admin",), **fields}
        made = ok(await self.http.post("/v1/keys", json=body), 201)
        return Key(made["key"]["id"], made["token"], self.harness.with_token(made["token"]))

    async def deployment(self, deployment_id: str) -> dict[str, Any]:
        return ok(await self.http.get(f"/v1/deployments/{deployment_id}"))["deployment"]


@dataclass(kw_only=True)
class Harness(harness.Harness):
    """The api's process and everything around it. `crash_file` selects a crash point.

    The process has a role that policies apply to; the tests look past them.
    """

    role_dsn: str
    issuer: TestIssuer
    directory: Path
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service = self.process("webhost_api")

    @property
    def crash_file(self) -> Path:
        return self.directory / "crash"

    async def start(self, **env: str) -> None:
        """Start the api; returns when it is ready."""
        own = {
            "WEBHOST_CRASH_FILE": str(self.crash_file),
            "JWT_ISSUER": self.issuer.url,
            "CORS_ALLOWED_ORIGINS": ORIGIN,
            **KEYS,
        }
        self.service.env = environment(self.role_dsn, self.nats_url, **(own | env))
        await self.service.start()

    def user(self, subject: str | None = None, **claims: Any) -> User:
        """Return a user, by default a new one."""
        subject = subject or f"user-{secrets.token_hex(6)}"
        token = self.issuer.token(subject, **claims)
        http = self.client(Authorization=f"Bearer {token}")
        return User(http, ids.user_id(self.issuer.url, subject), self)

    def with_token(self, token: str) -> httpx.AsyncClient:
        """Return a client that sends this bearer token."""
        return self.client(Authorization=f"Bearer {token}")

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client with these headers; the harness closes it at its end."""
        client = httpx.AsyncClient(base_url=self.service.url, headers=headers, timeout=20)
        self.clients.append(client)
        return client

    async def close(self) -> None:
        """Kill the process; close what is open, every client included."""
        await super().close()
        for client in self.clients:
            await client.aclose()

    async def command(self, verb: str, agent_id: str, kind: type[Command]) -> Any:
        """Return the last command of this kind to an agent's deployments, once it is there."""
        subject = subjects.command("deployer", verb, agent_id)
        message = await self._last(subjects.COMMANDS, subject)
        return wire.decode(message.data, kind)

    async def fact(
        self, user_id: str, kind: type[Event], aggregate_id: str, *, version: int = 0
    ) -> Envelope:
        """Return an aggregate's last fact once it is of this kind, and has reached this version."""
        subject = subjects.event(user_id, kind.kind(), aggregate_id)
        found: list[Envelope] = []

        async def reached() -> bool:
            message = await self._last(subjects.EVENTS, subject, kind.type_name())
            found.append(wire.decode(message.data, Envelope))
            return found[-1].version >= version

        await eventually(reached, f"version {version} of {aggregate_id}")
        return found[-1]

    async def _last(self, stream: str, subject: str, type_name: str | None = None) -> Any:
        found: list[Any] = []

        async def there() -> bool:
            info = await self.bus.js.stream_info(stream, subjects_filter=subject)
            if not info.state.subjects:
                return False
            message = await self.bus.js.get_last_msg(stream, subject)
            found.append(message)
            headers = message.headers or {}
            return type_name is None or headers[subjects.TYPE_HEADER] == type_name

        await eventually(there, f"a message on {subject}")
        return found[-1]


def ok(response: httpx.Response, status: int = 200) -> Any:
    """Return the body of an answer that must have this status."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    return response.json() if response.content else None


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error of an answer that must be this one, in the envelope."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"code", "message", "retryable", "details", "requestId"}
    assert error["code"] == code, error
    assert error["requestId"] == response.headers["x-request-id"]
    return error
