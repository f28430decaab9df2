"""What the bus answers, removes and remembers at a service's request: nothing of another's."""

import json
from contextlib import aclosing, suppress

import aiohttp
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError
from webhost_contracts import maintenance, subjects, wire
from webhost_contracts.events import TierChanged
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.reader import StreamReader
from webhost_local.installation.bus_accounts import STREAMS
from webhost_local.installation.services import SERVICES

from tests.integration.local.conftest import BusUrl
from tests.integration.local.test_bus_accounts import FACTS, REQUESTS, held
from tests.support.facts import envelope

FORGED = wire.encode(
    envelope("usr_1", "usr_1", TierChanged(tier="pro", previous_tier="free", source="forged"))
)
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
