"""A request is not carried out any more once its sender was told that no reply came."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NoReply
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import deadlines, maintenance, subjects, wire
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit import deadline
from webhost_kit.bus import rpc
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.clock import now_ms
from webhost_kit.errors import Unavailable
from webhost_kit.process.maintenance import Maintenance

from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background

REQUEST = SetTierRequest(user_id="usr_1", tier="pro", operator="o")
LOOK = "rpc.billing.look"
Handler = Callable[[AsyncConnection], Awaitable[None]]


@asynccontextmanager
async def serving(
    harness: Harness, nats_url: str, more: Handler | None = None
) -> AsyncGenerator[list[SetTierRequest]]:
    """A service that writes a name for each request, and then does `more` in the transaction;
    what it begins to handle is in the list.
    """
    begun: list[SetTierRequest] = []

    async def handle(request: SetTierRequest) -> SetTierReply:
        begun.append(request)
        async with harness.database.transaction() as connection:
            await connection.execute(text("INSERT INTO names VALUES ('a', 'x')"))
            if more is not None:
                await more(connection)
        return SetTierReply(tier=request.tier)

    async def is_there(request: SetTierRequest) -> SetTierReply:
        return SetTierReply(tier=request.tier)

    async def subscribed() -> bool:
        try:
            await harness.bus.client.request(LOOK, wire.encode(REQUEST), timeout=1)
        except NoRespondersError:
            return False
        return True

    server = RequestServer(nats_url, "billing")
    server.serve(subjects.RPC_SET_TIER, handle)
    server.serve(LOOK, is_there)
    await server.start()
    await eventually(subscribed, "requests to be taken")
    try:
        yield begun
    finally:
        await server.close()


async def names(harness: Harness) -> int:
    return await harness.scalar("SELECT count(*) FROM names")


async def ask(harness: Harness, until_ms: int) -> SetTierReply:
    headers = {deadlines.HEADER: str(until_ms)}
    reply = await harness.bus.client.request(
        subjects.RPC_SET_TIER, wire.encode(REQUEST), timeout=1, headers=headers
    )
    return wire.decode(reply.data, SetTierReply)


@pytest.mark.accept("7.3.late")
async def test_what_comes_late_is_not_begun(harness: Harness, nats_account: str) -> None:
    async with serving(harness, nats_account) as begun:
        with pytest.raises(NoReply):
            await ask(harness, now_ms() - 1)
        assert begun == []
        assert (await ask(harness, now_ms() + 1000)).tier == "pro"
        assert await names(harness) == 1


@pytest.mark.accept("7.3.late")
async def test_what_is_carried_out_too_late_is_undone(harness: Harness, nats_account: str) -> None:
    async def frozen(_: AsyncConnection) -> None:
        time.sleep(0.8)  # noqa: ASYNC251

    async with serving(harness, nats_account, frozen):
        with pytest.raises(Unavailable):
            await rpc.call(harness.bus, subjects.RPC_SET_TIER, REQUEST, SetTierReply, timeout_s=1.0)
    assert await names(harness) == 0


@pytest.mark.accept("7.3.late")
async def test_a_process_that_is_frozen_before_its_commit_does_not_commit_late(
    harness: Harness,
) -> None:
    def frozen(_: sa.Connection) -> None:
        time.sleep(0.6)

    async def work() -> None:
        async with harness.database.transaction() as connection:
            await connection.execute(text("INSERT INTO names VALUES ('a', 'x')"))

    event.listen(harness.database.engine.sync_engine, "commit", frozen)
    with deadline.of_request({deadlines.HEADER: str(now_ms() + 300)}), pytest.raises(Unavailable):
        await work()
    assert await names(harness) == 0
    await work()
    assert await names(harness) == 1, "without a deadline it may take its time"


@pytest.mark.accept("7.3.late")
async def test_an_operators_request_that_comes_late_is_dropped(harness: Harness) -> None:
    subject = maintenance.subject("billing", maintenance.PROJECTIONS)

    async def answered(until_ms: int) -> bool:
        headers = {deadlines.HEADER: str(until_ms)}
        try:
            await harness.bus.client.request(subject, b"{}", timeout=0.5, headers=headers)
        except (NoReply, NoRespondersError):
            return False
        return True

    async with in_background(Maintenance("billing", harness.bus, harness.database, []).run()):
        await eventually(lambda: answered(now_ms() + 5000), "an answer in time")
        assert not await answered(now_ms() - 1)
