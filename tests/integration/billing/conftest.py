"""A real billing process, and the packets of facts that their owners send."""

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.errors import KeyNotFoundError, NotFoundError
from webhost_billing.partitions import checkpoint_name
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope, InvocationFinished, TelemetryAccepted
from webhost_contracts.events.packets import PACKET, pack
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest, UsageReply, UsageRequest
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms

from tests.support.deadline import eventually
from tests.support.facts import envelope
from tests.support.harness import Harness, running

AT_MS = now_ms()
PERIOD = period_key(AT_MS)
ALICE, BOB = ids.user_id("test", "alice"), ids.user_id("test", "bob")


def call(user_id: str, number: int, **changes: Any) -> tuple[str, Envelope]:
    """The gateway's fact about call `number`, with the subject of its packet."""
    fact = InvocationFinished(
        agent_id="agt_a",
        deployment_id=f"dep_{user_id}",
        runtime_provider="cloudflare",
        trace_id="trace-1",
        admitted_at_ms=AT_MS,
        outcome="succeeded",
        wall_ms=100,
    )
    fact = msgspec.structs.replace(fact, **changes)
    stated = envelope(user_id, f"inv_{number}", fact, at_ms=AT_MS)
    return subjects.usage_packets(subjects.partition_of(user_id), subjects.GATEWAY), stated


def telemetry(user_id: str, number: int, **changes: Any) -> tuple[str, Envelope]:
    """The Worker's report of call `number`, with the subject of its packet."""
    fact = TelemetryAccepted(
        agent_id="agt_a",
        deployment_id=f"dep_{user_id}",
        runtime_provider="cloudflare",
        dedupe_key=f"event:inv_{number}",
        timestamp_ms=AT_MS,
        requests=1,
        llm_tokens=10,
        compute_ms=40,
        errors=0,
        tool_calls=2,
        trace_id="trace-1",
        provider={"model": "m"},
    )
    fact = msgspec.structs.replace(fact, **changes)
    stated = envelope(user_id, f"evt_{number}", fact, at_ms=AT_MS + 5)
    partition = subjects.partition_of(user_id)
    return subjects.usage_packets(partition, subjects.TELEMETRY_INGEST), stated


async def send_packet(bus: Bus, subject: str, facts: Sequence[Envelope]) -> None:
    """Publish a packet and wait until it is stored."""
    body = pack(wire.encode(fact) for fact in facts)
    await bus.js.publish(subject, body, headers={subjects.TYPE_HEADER: PACKET})


@dataclass(kw_only=True)
class Billing(Harness):
    """A billing process; `given_usage` is what its gateways and its ingest state."""

    directory: Path

    def __post_init__(self) -> None:
        crash_file = str(self.directory / "crash")
        self.service = self.process("webhost_billing", WEBHOST_CRASH_FILE=crash_file)

    async def given_folded(self, *facts: tuple[str, Envelope]) -> None:
        """State these facts, in this order, and wait until billing has folded them."""
        await self.given_usage(*facts)
        await self.caught_up()

    async def given_usage(self, *facts: tuple[str, Envelope]) -> None:
        """Send these facts in packets, consecutive ones on the same subject together."""
        for subject, together in itertools.groupby(facts, key=lambda fact: fact[0]):
            await send_packet(self.bus, subject, [envelope for _, envelope in together])

    async def caught_up(self, *, seconds: float = 20) -> None:
        for partition in range(subjects.PARTITIONS):
            await self._folded(partition, seconds)

    async def _folded(self, partition: int, seconds: float) -> None:
        try:
            last = await self.bus.js.get_last_msg(
                subjects.USAGE, subjects.usage_partition(partition)
            )
        except NotFoundError:
            return

        async def folded() -> bool:
            return await self.checkpoint(partition) >= (last.seq or 0)

        await eventually(folded, f"partition {partition} to be folded", seconds=seconds)

    async def checkpoint(self, partition: int) -> int:
        query = "SELECT sequence FROM checkpoints WHERE name = :name"
        return await self.scalar(query, name=checkpoint_name(partition)) or 0

    async def usage(self, user_id: str, period: str = PERIOD) -> UsageReply:
        request = UsageRequest(user_id=user_id, period_key=period)
        return await rpc.call(self.bus, subjects.RPC_USAGE, request, UsageReply)

    async def totals(self, user_id: str) -> Totals | None:
        """What the bucket holds for this user now."""
        bucket = await self.bus.js.key_value(subjects.TOTALS_BUCKET)
        try:
            entry = await bucket.get(subjects.totals_key(user_id, PERIOD))
        except KeyNotFoundError:
            return None
        return wire.decode(entry.value or b"", Totals)

    async def rebuild(self, **request: Any) -> list[RebuildProgress]:
        """Request a rebuild; return every progress message."""
        inbox = self.bus.client.new_inbox()
        replies = await self.bus.client.subscribe(inbox)
        order = wire.encode(RebuildRequest(**request))
        await self.bus.client.publish(subjects.RPC_REBUILD, order, reply=inbox)
        lines: list[RebuildProgress] = []
        while not lines or not (lines[-1].done or lines[-1].refused):
            reply = await replies.next_msg(timeout=20)
            lines.append(wire.decode(reply.data, RebuildProgress))
        await replies.unsubscribe()
        return lines

    async def folded(self) -> Sequence[str]:
        """Every row that is a fold of USAGE, byte for byte, without its generation."""
        tables = ("invocations", "usage_events", "billing_usage", "usage_series")
        return [
            f"{table} {row['line']}"
            for table in tables
            for row in await self.rows(
                f"SELECT CAST(to_jsonb(t) - 'generation' AS text) AS line FROM {table} t"
                " WHERE generation = (SELECT live FROM generations) ORDER BY line"
            )
        ]


@pytest.fixture
async def billing(database_url: str, nats_account: str, tmp_path: Path) -> AsyncIterator[Billing]:
    async with running(Billing, database_url, nats_account, directory=tmp_path) as harness:
        await harness.service.start()
        yield harness
