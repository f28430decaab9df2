"""What a service that was taken over can do on the bus, with its own credentials: its own, only."""

import json
from contextlib import aclosing, suppress

import aiohttp
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError
from webhost_contracts import maintenance, subjects, wire
from webhost_contracts.catalogue import example_of
from webhost_contracts.events import EVENT_TYPES, Envelope, Event, TierChanged
from webhost_contracts.events.base import by_name
from webhost_contracts.subjects import OWNERS
from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.reader import StreamReader
from webhost_local.nats_accounts import SERVICES, STREAMS

from tests.integration.local.conftest import BusUrl
from tests.support.deadline import eventually
from tests.support.facts import envelope

FACTS = {
    "evt.usr_1.user.usr_1": {"api"},
    "evt.usr_1.agent.agt_1": {"api"},
    "evt.usr_1.deployment.agt_1": {"deployer"},
    "evt.usr_1.account.usr_1": {"billing"},
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
    "STREAM.MSG.GET.USAGE": {"billing"},
    "STREAM.MSG.GET.COMMANDS": {"deployer"},
    "STREAM.MSG.GET.DEADLETTERS": set[str](),
    "CONSUMER.CREATE.EVENTS.c.evt.>": set(SERVICES),
    "CONSUMER.CREATE.USAGE.c.usage.>": {"billing"},
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
    subjects.RPC_SET_TIER: set[str](),
    subjects.RPC_REBUILD: set[str](),
    **{maintenance.subject(service, maintenance.REPLAY): set[str]() for service in SERVICES},
    maintenance.subject("api", maintenance.REPUBLISH): set[str](),
}
FORGED = wire.encode(
    envelope("usr_1", "usr_1", TierChanged(tier="pro", previous_tier="free", source="forged"))
)


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


MAY_SEND = FACTS | {f"$JS.API.{request}": owners for request, owners in REQUESTS.items()}

# Where an answer of the server's would do harm, if it went there.
TARGETS = (
    *FACTS,
    subjects.RPC_SET_TIER,
    *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE") for stream in STREAMS),
    maintenance.subject("billing", maintenance.REPLAY),
)


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", SERVICES)
async def test_no_answer_of_the_server_goes_where_its_asker_may_not_send(
    service: str, operator: Bus, bus_url: BusUrl
) -> None:
    # given a forged fact, stored wherever this service may read or write
    for subject in FACTS:
        await operator.js.publish(subject, FORGED)
    assert all((await held(operator)).values())
    asked: list[Msg] = []
    async with (
        await nats.connect(bus_url("billing")) as billing,
        await nats.connect(bus_url(service)) as client,
    ):

        async def hear(message: Msg) -> None:
            asked.append(message)

        if service != "billing":
            await billing.subscribe("rpc.billing.>", cb=hear)
            await billing.flush()
        before = await held(operator)
        # when it names the targets as where to answer, every way there is
        foreign = [s for s in TARGETS if service not in MAY_SEND.get(s, ())]
        for stream in STREAMS:
            await every_answer_to(client, stream, foreign)
        # then nothing was stored, removed or asked
        await barrier(client, operator)
        assert await held(operator) == before
        assert asked == []


async def every_answer_to(client: Client, stream: str, targets: list[str]) -> None:
    js = client.jetstream(timeout=5)
    for target in targets:
        last = json.dumps({"last_by_subj": STREAMS[stream]}).encode()
        await client.publish(f"$JS.API.STREAM.MSG.GET.{stream}", last, reply=target)
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", last, reply=target)
        await client.publish(f"$JS.API.STREAM.INFO.{stream}", reply=target)
        await client.publish("$JS.API.INFO", reply=target)
        with suppress(APIError):
            pulled = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True)
            name = (await js.add_consumer(stream, pulled)).name
            request = b'{"batch": 9, "no_wait": true}'
            await client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", request, reply=target
            )
            pushed = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_subject=target)
            await js.add_consumer(stream, pushed)
        for subject in (f"$JS.API.STREAM.INFO.{stream}", "evt.usr_1.forged.x"):
            await client.publish(subject, FORGED, headers={"Nats-Trace-Dest": target})


async def barrier(client: Client, operator: Bus) -> None:
    """Return when the server has dealt with what was sent before."""
    for bus in (client, operator.client):
        await bus.request("$JS.API.INFO", b"", timeout=5)
        await bus.flush()


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


@pytest.mark.accept("6.D1")
async def test_a_reader_leaves_nothing_to_remember_with_the_server(
    operator: Bus, bus_url: BusUrl, monitoring: str
) -> None:
    async def remembered() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{monitoring}/accountz?acc={subjects.EVENTS}") as response,
        ):
            return len((await response.json())["account_detail"].get("responses", ()))

    before = await remembered()
    for number in range(200):
        await operator.client.publish(f"evt.usr_1.agent.agt_{number}", b"x")
    await operator.client.flush()
    gateway = await connect(bus_url("gateway"), "gateway")
    reader = StreamReader(gateway, subjects.EVENTS, ["evt.>"], batch_size=5)
    read = 0
    async with aclosing(reader.batches(None)) as batches:
        async for batch in batches:
            read += len(batch.messages)
            if read == 200:
                break
        assert await remembered() - before < 10, "one pull is under way, of forty"
    await gateway.close()


# What a publisher may ask of a stream by a header, where the stream allows it.
HEADERS = (
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-TTL": "1s"},
    {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "evt.usr_1.account.usr_1"},
    {"Nats-Incr": "1"},
)


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize(
    "subject", [subject for subject in FACTS if subject.startswith(("evt.", "usage.", "cmd."))]
)
@pytest.mark.parametrize("headers", HEADERS, ids=str)
async def test_no_header_removes_or_carries_a_fact(
    subject: str, headers: dict[str, str], operator: Bus
) -> None:
    await operator.js.publish(subject, b"a fact")
    before = await held(operator)
    with pytest.raises(APIError):
        await operator.js.publish(subject, b"x", headers=headers)
    assert await held(operator) == before
