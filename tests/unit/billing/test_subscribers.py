"""What an operator is told of a rebuild that failed."""

import asyncio
from unittest.mock import AsyncMock, Mock

from webhost_billing.subscribers import RebuildRequests
from webhost_contracts import wire
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest


async def test_a_rebuild_that_failed_can_be_run_again() -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()
    bus = Mock(client=Mock(publish=AsyncMock(side_effect=lambda _, data: sent.put_nowait(data))))
    rebuilder = Mock(rebuild=AsyncMock(side_effect=ZeroDivisionError))
    requests = RebuildRequests(bus, rebuilder)
    await requests.start(RebuildRequest(), Mock(raw_message=Mock(reply="inbox")))
    line = wire.decode(await sent.get(), RebuildProgress)
    assert line.refused is not None
    assert line.refused.endswith("the same rebuild, run again, goes on from there")
