"""What one user's facts on EVENTS say, for tests of a running stack."""

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from webhost_contracts import subjects
from webhost_contracts.events import Envelope
from webhost_kit.bus.connection import connect

from tests.support.facts import stored
from tests.support.stack import Stack

OWNERS = ("api", "deployer", "billing")
"""Who keeps the facts that it states in a table."""
Stated = tuple[str, str, int]
"""A fact's aggregate, by kind and id, and its version."""


@dataclass(frozen=True)
class Recorded:
    """One fact, with its type as text and its data undecoded."""

    aggregate_id: str
    version: int
    type_name: str
    at_ms: int
    data: dict[str, Any]

    @property
    def aggregate(self) -> tuple[str, str]:
        """Its kind and id: an agent and its teardown share one."""
        return self.type_name.partition(".")[0], self.aggregate_id

    def __str__(self) -> str:
        step = self.data.get("step")
        return f"{self.type_name} ({step})" if step else self.type_name


def history_of(stack: Stack, user_id: str) -> list[Recorded]:
    """Every fact of this user, in the stream's order; repeats included."""
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, apart from the tests' own one
        return pool.submit(asyncio.run, _read(stack.status()["natsUrl"], user_id)).result()


def is_whole(stack: Stack, user_id: str) -> bool:
    """Whether all facts that the user's things have in their owners' tables are in the history,
    which has no gap.
    """
    stated: set[Stated] = set()
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        for owner in OWNERS:
            query = f"SELECT type, aggregate_id, version FROM {owner}.events WHERE user_id = %s"
            for type_name, *version in connection.execute(query.encode(), [user_id]):
                stated.add((type_name.partition(".")[0], *version))
    return is_unbroken(history_of(stack, user_id), stated)


def is_unbroken(history: list[Recorded], stated: set[Stated]) -> bool:
    """Whether every aggregate's versions are 1, 2, 3, …, at least up to what was `stated`, which is
    something; a repeat says what the first one said.
    """
    versions: dict[tuple[str, str], dict[int, Recorded]] = defaultdict(dict)
    for fact in history:
        known = versions[fact.aggregate].setdefault(fact.version, fact)
        assert known == fact, f"two facts are version {fact.version} of {fact.aggregate}"
    there = {(*aggregate, version) for aggregate, found in versions.items() for version in found}
    return bool(stated <= there and stated) and all(
        sorted(found) == [*range(1, len(found) + 1)] for found in versions.values()
    )


async def _read(nats_url: str, user_id: str) -> list[Recorded]:
    bus = await connect(nats_url, "history")
    try:
        found = await stored(bus, subjects.EVENTS, f"evt.{user_id}.>")
    finally:
        await bus.close()
    return [_recorded(envelope) for envelope in found]


def _recorded(envelope: Envelope) -> Recorded:
    data = msgspec.json.decode(envelope.data)
    return Recorded(
        aggregate_id=envelope.aggregate_id,
        version=envelope.version,
        type_name=envelope.type_name(),
        at_ms=envelope.occurred_at_ms,
        data=data,
    )
