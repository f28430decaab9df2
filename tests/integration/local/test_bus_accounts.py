"""What a service that was taken over can do on the bus, with its own credentials: its own, only."""

from contextlib import suppress

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
from webhost_contracts import maintenance, subjects, wire
from webhost_contracts.catalogue import example_of
from webhost_contracts.events import EVENT_TYPES, Envelope, Event
from webhost_contracts.events.base import by_name
from webhost_contracts.subjects import OWNERS
from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus, connect
from webhost_local.installation.bus_accounts import STREAMS
from webhost_local.installation.services import SERVICES

from tests.integration.local.conftest import BusUrl
from tests.support.deadline import eventually

FACTS = {
    "evt.usr_1.user.usr_1": {"api"},
    "evt.usr_1.agent.agt_1": {"api"},
    "evt.usr_1.deployment.agt_1": {"deployer"},
    "evt.usr_1.account.usr_1": {"billing"},
    "evt.usr_1.period.usr_1": {"billing"},
    "evt.usr_1.delegation.usr_1": {"gateway"},
    "evt.usr_1.report.usr_1": {"telemetry-ingest"},
    "evt.usr_1.unheard-of.usr_1": set[str](),
    "usage.7.gateway": {"gateway"},
    "usage.7.telemetry-ingest": {"telemetry-ingest"},
    "usage.7.billing": set[str](),
    "cmd.deployer.deploy.agt_1": {"api"},
    "dead.cmd.deployer.deploy.agt_1": {"deployer"},
    "$KV.TOTALS.usr_1.2026-11": {"billing"},
    "$O.ARTIFACTS.C.stolen": {"api"},
}
# What reaches a stream's content or life: who may ask it of JetStream.
REQUESTS = {
    "STREAM.MSG.GET.EVENTS": set(SERVICES),
    "STREAM.MSG.GET.USAGE": {"api", "billing"},
    "STREAM.MSG.GET.COMMANDS": {"deployer"},
    "STREAM.MSG.GET.DEADLETTERS": set[str](),
    "CONSUMER.CREATE.EVENTS.c.evt.>": set(SERVICES),
    "CONSUMER.CREATE.USAGE.c.usage.>": {"api", "billing"},
    "CONSUMER.CREATE.COMMANDS.c": {"deployer"},
    "CONSUMER.CREATE.KV_TOTALS.c": {"gateway"},
    "CONSUMER.CREATE.OBJ_ARTIFACTS.c": {"api", "deployer"},
    "CONSUMER.DURABLE.CREATE.COMMANDS.deployer-deploy": {"deployer"},
    "STREAM.CREATE.EVENTS": {"api"},
    "STREAM.CREATE.USAGE": {"billing"},
    "STREAM.CREATE.COMMANDS": {"deployer"},
    "STREAM.CREATE.MIRROR": set[str](),
    "STREAM.NAMES": {"api", "deployer"},
    "STREAM.LIST": set[str](),
    **{
        f"{verb}.{stream}": set[str]()
        for stream in STREAMS
        for verb in (
            *("STREAM.UPDATE", "STREAM.DELETE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT"),
            *("STREAM.RESTORE", "DIRECT.GET", "CONSUMER.NAMES", "CONSUMER.LIST"),
        )
    },
    **{f"CONSUMER.DELETE.{stream}.c": set[str]() for stream in STREAMS},
    **{
        f"STREAM.PURGE.{stream}": {"api"} if stream == subjects.ARTIFACTS_STREAM else set[str]()
        for stream in STREAMS
    },
}
RPCS = {
    subjects.RPC_USAGE: {"api"},
    subjects.RPC_RECENT_EVENTS: {"api"},
    subjects.RPC_USAGE_SERIES: {"api"},
    subjects.RPC_INVOICE: {"api"},
    subjects.RPC_USAGE_FEED: {"api"},
    subjects.RPC_USAGE_EXPORT: set[str](),
    subjects.RPC_SET_TIER: set[str](),
    subjects.RPC_SET_ACCOUNT_STATUS: set[str](),
    subjects.RPC_REBUILD: set[str](),
    subjects.RPC_VERIFY: set[str](),
    subjects.RPC_LATE_REPORTS: set[str](),
    **{maintenance.subject(service, maintenance.REPLAY): set[str]() for service in SERVICES},
    maintenance.subject("api", maintenance.REPUBLISH): set[str](),
}


async def held(operator: Bus) -> dict[str, int]:
    return {stream: (await operator.js.stream_info(stream)).state.messages for stream in STREAMS}


def owned_by(kind: type[Event]) -> str:
    return OWNERS[kind.kind()]


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.type_name())
async def test_only_its_owner_can_publish_a_kind_of_fact(
    kind: type[Event], operator: Bus, bus_url: BusUrl
) -> None:
    example = wire.decode(example_of(kind.type_name()), Envelope)
    event = example.event(by_name(kind))
    assert event is not None
    subject = event.published_on(example.user_id, example.aggregate_id)
    stored: set[str] = set()
    for service in SERVICES:
        async with await nats.connect(bus_url(service)) as client:
            with suppress(NoStreamResponseError):
                await client.jetstream().publish(subject, wire.encode(example))
                stored.add(service)
    assert stored == {owned_by(kind)}
    assert sum((await held(operator)).values()) == 1


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_states_and_commands_only_what_is_its_own(
    service: str, operator: Bus, bus_url: BusUrl
) -> None:
    stored: set[str] = set()
    async with await nats.connect(bus_url(service)) as client:
        for subject in FACTS:
            with suppress(NoStreamResponseError):
                await client.jetstream().publish(subject, b"x")
                stored.add(subject)
    assert stored == {subject for subject, owners in FACTS.items() if service in owners}
    assert sum((await held(operator)).values()) == len(stored)


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_asks_only_what_is_its_own_to_ask(
    service: str, operator: Bus, bus_url: BusUrl
) -> None:
    asked = {f"$JS.API.{request}": owners for request, owners in REQUESTS.items()} | RPCS
    answered: set[str] = set()

    async def answer(message: Msg) -> None:
        await message.respond(b"42")

    clients = {name: await nats.connect(bus_url(name)) for name in SERVICES}
    try:
        for name, client in clients.items():
            await client.subscribe(f"rpc.{name}.>", cb=answer)
            await client.flush()
        for subject in asked:
            # What is asked is nonsense, so that the server changes nothing.
            with suppress(NoRespondersError):
                await clients[service].request(subject, b"nonsense", timeout=5)
                answered.add(subject)
    finally:
        for client in clients.values():
            await client.close()
    expected = {subject for subject, owners in asked.items() if service in owners}
    # Its own requests come back to itself.
    assert answered == expected | {s for s in asked if s.startswith(f"rpc.{service}.")}
    assert set(await held(operator)) == set(STREAMS)


@pytest.mark.accept("6.D1")
async def test_a_service_hears_nothing_of_the_others(operator: Bus, bus_url: BusUrl) -> None:
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    async def reply(message: Msg) -> None:
        await message.respond(b"42")

    async with (
        await nats.connect(bus_url("gateway")) as gateway,
        await nats.connect(bus_url("billing")) as billing,
        await nats.connect(bus_url("api")) as api,
    ):
        await gateway.subscribe(">", cb=hear)
        await billing.subscribe(subjects.RPC_USAGE, cb=reply)
        await gateway.flush()
        await billing.flush()
        assert (await api.request(subjects.RPC_USAGE, b"?", timeout=5)).data == b"42"
        await api.jetstream().publish("evt.usr_1.agent.agt_1", b"x")
        await billing.jetstream().publish("evt.usr_1.account.usr_1", b"x")
        await operator.client.flush()
        await gateway.flush()
        assert heard == []


@pytest.mark.accept("6.D1")
async def test_a_stream_is_made_by_the_service_that_owns_it_alone(
    operator: Bus, bus_url: BusUrl
) -> None:
    for stream in STREAMS:
        await operator.js.delete_stream(stream)
    gateway = await connect(bus_url("gateway"), "gateway")
    with pytest.raises(ServiceUnavailableError):
        await streams.make(gateway.js, subjects.EVENTS)
    makers = [await connect(bus_url(name), name) for name in ("api", "deployer", "billing")]

    async def all_there() -> bool:
        return set(await held(operator)) == set(STREAMS)

    await eventually(all_there, "the streams")
    for bus in (gateway, *makers):
        await bus.close()
