"""Streams of an agent's events end with the right to read them, and others go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from webhost_api.projection import NAME
from webhost_contracts.events import AccountDisabled, AccountEnabled
from webhost_kit.clock import now_ms

from tests.integration.api.harness import Harness, Key, User, ok, problem
from tests.integration.api.test_events import until_number
from tests.integration.api.watching import Watcher, watching
from tests.support.deadline import eventually

WITHIN_S = 2.0
"""From the answer to the change; the api looks as often as every quarter of a second."""
EXPIRES_MS = 1_500


@dataclass
class Watched:
    """A user's agent, and who watches it: the user, and an API key of theirs."""

    harness: Harness
    user: User
    agent_id: str
    key: Key

    @property
    def with_key(self) -> User:
        return User(self.key.http, self.user.id, self.harness)

    async def still_comes(self, watcher: Watcher) -> None:
        """An event that happens now reaches this watcher."""
        seen = watcher.names.count("agent.updated.v1")
        name = {"name": f"renamed {time.monotonic_ns()}"}
        ok(await self.user.http.patch(f"/v1/agents/{self.agent_id}", json=name))
        await watcher.until("agent.updated.v1", seen + 1)


@pytest.fixture
async def watched(harness: Harness, user: User) -> Watched:
    agent_id = (await user.create())["id"]
    await until_number(harness, agent_id, 1)
    return Watched(harness, user, agent_id, await user.key("read"))


async def revoke(it: Watched) -> None:
    ok(await it.user.http.delete(f"/v1/keys/{it.key.id}"), 204)


async def rotate(it: Watched, overlap_s: int = 0) -> None:
    path = f"/v1/keys/{it.key.id}/rotate"
    ok(await it.user.http.post(path, json={"overlapSeconds": overlap_s}))


async def rotate_with_overlap(it: Watched) -> None:
    await rotate(it, overlap_s=1)
    await asyncio.sleep(1)


@pytest.mark.accept("7.events.ended")
@pytest.mark.parametrize("change", [revoke, rotate, rotate_with_overlap])
async def test_a_stream_ends_with_its_key(
    watched: Watched, change: Callable[[Watched], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as stack:
        by_key, by_user, by_other = [
            await stack.enter_async_context(watching(who, watched.agent_id))
            for who in (
                watched.with_key,
                watched.user,
                User((await watched.user.key("read")).http, watched.user.id, watched.harness),
            )
        ]
        await watched.still_comes(by_key)
        await change(watched)
        async with asyncio.timeout(WITHIN_S):
            await by_key.until_end()
        for other in (by_user, by_other):
            await watched.still_comes(other)


@pytest.mark.accept("7.events.ended")
async def test_the_secret_before_a_rotation_watches_for_the_overlap(watched: Watched) -> None:
    async with watching(watched.with_key, watched.agent_id) as watcher:
        await rotate(watched, overlap_s=60)
        await asyncio.sleep(WITHIN_S / 2)
        await watched.still_comes(watcher)
        await rotate(watched)
        async with asyncio.timeout(WITHIN_S):
            await watcher.until_end()


@pytest.mark.accept("7.events.ended")
async def test_streams_end_with_the_account(watched: Watched) -> None:
    harness, user = watched.harness, watched.user
    other = harness.user()
    others = (await other.create())["id"]
    path = f"/v1/agents/{watched.agent_id}/events"
    async with AsyncExitStack() as stack:
        by_user, by_key, by_other = [
            await stack.enter_async_context(watching(who, agent_id))
            for who, agent_id in (
                (user, watched.agent_id),
                (watched.with_key, watched.agent_id),
                (other, others),
            )
        ]
        await watched.still_comes(by_user)
        await harness.given(user.id, user.id, AccountDisabled(source="operator:kim"))
        async with asyncio.timeout(WITHIN_S):
            await by_user.until_end()
            await by_key.until_end()
        ok(await other.http.post(f"/v1/agents/{others}/disable"))
        await by_other.until("agent.disabled.v1")
    # and none is opened, until the account is enabled
    refused = problem(await user.http.get(path), 403, "UNAUTHORIZED")
    assert refused["details"] == {"reason": "account_disabled"}
    await harness.given(user.id, user.id, AccountEnabled(source="operator:kim"), version=2)

    async def opens() -> bool:
        async with user.http.stream("GET", path) as response:
            return response.status_code == 200

    await eventually(opens, "a stream to be opened again")


@pytest.mark.accept("7.events.ended")
async def test_streams_end_with_the_account_while_the_history_lags(watched: Watched) -> None:
    harness, user = watched.harness, watched.user
    async with watching(user, watched.agent_id) as watcher:
        await watched.still_comes(watcher)
        await asyncio.sleep(1)  # the look that this event woke is over
        async with harness.database.transaction() as connection:
            lock = sa.text("SELECT FROM checkpoints WHERE name = :name FOR UPDATE")
            await connection.execute(lock, {"name": NAME})
            await harness.given(user.id, user.id, AccountDisabled(source="operator:kim"))
            async with asyncio.timeout(WITHIN_S):
                await watcher.until_end()


@pytest.mark.accept("7.events.ended")
async def test_a_stream_ends_when_its_key_expires(watched: Watched) -> None:
    expires_at_ms = now_ms() + EXPIRES_MS
    key = await watched.user.key("read", expiresAtMs=expires_at_ms)
    user = User(key.http, watched.user.id, watched.harness)
    async with watching(user, watched.agent_id) as watcher:
        await watched.still_comes(watcher)
        await watcher.until_end()
    assert 0 <= now_ms() - expires_at_ms <= WITHIN_S * 1000
