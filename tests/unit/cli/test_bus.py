"""What goes wrong on the bus, and what only seems to."""

import asyncio
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from nats.aio.client import Client
from webhost_cli import bus
from webhost_cli.errors import CommandError
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import VerifyReply, VerifyRequest


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_what_a_command_cannot_write_is_no_error_of_the_bus(error: OSError) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        bus.run(work())


@pytest.mark.parametrize(
    ("reads", "advice"), [(True, "0.1 s: try again"), (False, "not done later either")]
)
def test_what_only_reads_is_just_tried_again(reads: bool, advice: str) -> None:
    client = Mock(request=AsyncMock(side_effect=TimeoutError))
    asked = bus.ask(
        *(client, subjects.RPC_VERIFY, VerifyRequest(), VerifyReply), timeout_s=0.1, reads=reads
    )
    with pytest.raises(bus.NoReply, match=advice):
        asyncio.run(asked)


def test_any_server_of_a_cluster_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def connect(_: Client, url: str, **__: object) -> None:
        tried.append(url)
        if url != "nats://three":
            raise OSError("refused")

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(Client, "close", AsyncMock())

    async def use(urls: str) -> None:
        async with bus.connected(urls):
            pass

    for _ in range(10):
        tried.clear()
        asyncio.run(use("nats://one,nats://two,nats://three"))
        assert tried[-1] == "nats://three"
    tried.clear()
    with pytest.raises(CommandError, match="refused"):
        asyncio.run(use("nats://one,nats://two"))
    assert sorted(tried) == ["nats://one", "nats://two"]


def test_without_a_local_stack_it_is_said_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.setenv("WEBHOST_DATA_DIR", str(tmp_path))
    with pytest.raises(CommandError, match=r"no stack is running.*set NATS_URL"):
        bus.nats_url_of(None)
