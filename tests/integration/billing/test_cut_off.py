"""A billing process whose NATS server only its clients still reach goes on with another server."""

from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
from nats.errors import Error as NatsError
from webhost_kit.bus import streams
from webhost_kit.bus.connection import connect
from webhost_kit.errors import Unavailable
from webhost_local.installation.nats_config import Account, NatsUser

from tests.integration.billing.conftest import ALICE, Billing, call
from tests.integration.billing.test_usage import counters
from tests.support.deadline import eventually
from tests.support.harness import running
from tests.support.proxy import Proxy
from tests.support.routes import NAMES, Routed, routed_cluster

USER = "test:for-tests"
NOTICED_S = 15.0
GOES_ON_S = 40.0
CUT_OFF, *WELL = NAMES


@pytest.fixture
async def routed(tmp_path: Path) -> AsyncIterator[Routed]:
    directory = tmp_path / "nats"
    directory.mkdir()
    async with routed_cluster(directory, {"TEST": Account([NatsUser(*USER.split(":"))])}) as made:
        bus = await connect(made.urls(USER), "test", replicas=3)

        async def whole() -> bool:
            try:
                infos = [await bus.js.stream_info(name) for name in streams.NAMES]
            except (NatsError, TimeoutError):
                return False
            peers = [(info.cluster and info.cluster.replicas) or [] for info in infos]
            return all(len(p) == 2 and all(one.current for one in p) for p in peers)

        await eventually(whole, "each server to have everything", seconds=60)
        await bus.close()
        yield made


async def until_put(billing: Billing, compute_ms: int) -> None:
    async def there() -> bool:
        try:
            found = await billing.totals(ALICE)
        except (NatsError, TimeoutError):  # while the others choose who leads
            return False
        return found is not None and found.compute_ms == compute_ms

    await eventually(there, f"totals of {compute_ms} ms", seconds=GOES_ON_S)


async def until_replied(billing: Billing, calls: int) -> None:
    """The others do not know yet who is gone, and may still ask the process where it was."""

    async def replied() -> bool:
        try:
            return (await billing.usage(ALICE)).usage == counters(calls, 0)
        except Unavailable:
            return False

    await eventually(replied, f"a reply of {calls} calls", seconds=GOES_ON_S)


@pytest.mark.timeout(240)
@pytest.mark.accept("10.cluster")
async def test_a_process_at_a_server_that_is_cut_off_goes_on_at_another_one(
    routed: Routed, database_url: str, tmp_path: Path
) -> None:
    async with (
        running(Billing, database_url, routed.urls(USER, *WELL), directory=tmp_path) as billing,
        Proxy(routed.servers[WELL[0]].port) as second,
        Proxy(routed.servers[WELL[1]].port) as third,
    ):
        urls = [f"nats://{USER}@127.0.0.1:{proxy.port}" for proxy in (second, third)]
        everywhere = ",".join([routed.urls(USER, CUT_OFF), *urls])
        for proxy in (second, third):
            proxy.hold()  # so that each of its connections begins with the first
        process = billing.process("webhost_billing", NATS_URL=everywhere, NATS_REPLICAS="3")
        await process.start()
        for proxy in (second, third):
            proxy.release()
        await billing.given_folded(call(ALICE, 1))
        await until_put(billing, 100)

        routed.cut_off(CUT_OFF)
        began = monotonic()

        async def noticed() -> bool:
            return not await process.ready()

        await eventually(noticed, "it to be unready", seconds=NOTICED_S)
        unready = monotonic() - began
        while True:
            try:
                await billing.given_usage(call(ALICE, 2))
                break
            except (NatsError, TimeoutError):
                assert monotonic() - began < GOES_ON_S
        await until_put(billing, 200)
        counted = monotonic() - began
        assert counted < GOES_ON_S
        await eventually(process.ready, "it to be well again", seconds=GOES_ON_S)
        print(f"unready after {unready:.1f} s, counted {counted:.1f}")
        await until_replied(billing, 2)
        routed.join(CUT_OFF)
        await until_replied(billing, 2)
        assert (await billing.rebuild(dry_run=True))[-1].differences == ()
