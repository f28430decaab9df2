"""API keys in tests: stated as the api would."""

import dataclasses
import secrets
from dataclasses import dataclass
from typing import Any

from webhost_contracts import ids
from webhost_contracts.api_keys import KeyLimits, hash_of, token_of
from webhost_contracts.events import KeyCreated, KeyRevoked, KeyRotated
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from tests.integration.gateway.harness import Agent, Harness


@dataclass
class Key:
    """An API key of an agent's user; `caller` is the agent as it is called with the key."""

    harness: Harness
    id: str
    caller: Agent
    secret: bytes
    version: int = 1

    async def rotate(self, overlap_s: float) -> "Key":
        """Return the key with its next secret."""
        self.version += 1
        token, secret = _a_token(self.id)
        rotated = KeyRotated(
            secret_hash=hash_of(secret), previous_expires_at_ms=now_ms() + round(overlap_s * 1000)
        )
        await self.harness.given(self.caller.user_id, self.id, rotated, version=self.version)
        caller = dataclasses.replace(self.caller, token=token)
        return dataclasses.replace(self, caller=caller, secret=secret)

    async def revoke(self) -> None:
        self.version += 1
        await self.harness.given(self.caller.user_id, self.id, KeyRevoked(), version=self.version)


async def a_key(
    harness: Harness,
    agent: Agent,
    *scopes: str,
    limit: tuple[int, Any] | None = None,
    **fields: Any,
) -> Key:
    """Make a key, by default one that may invoke. `limit`: requests and their period."""
    key_id = new_id(ids.KEY, now_ms())
    token, secret = _a_token(key_id)
    created = KeyCreated(
        name="k",
        scopes=scopes or ("invoke",),
        secret_hash=hash_of(secret),
        limits=limit and KeyLimits(requests=limit[0], period=limit[1]),
        **fields,
    )
    await harness.given(agent.user_id, key_id, created)
    return Key(harness, key_id, dataclasses.replace(agent, token=token), secret)


def _a_token(key_id: str) -> tuple[str, bytes]:
    secret = secrets.token_bytes(32)
    return token_of(key_id, secret), secret
