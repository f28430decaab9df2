"""What happens to the stack when its streams lose messages or are recreated."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus, connect
from webhost_local.stack import why_not_ready

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

NOTICED_S = 20
DEPLOYED_S = 40

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack of its own, since a shared one's streams must not be broken."""
    with running_stack() as running:
        yield running


def on_bus(stack: Stack, work: Callable[[Bus], Awaitable[Result]]) -> Result:
    """Do this as the operator, on a connection and a loop of its own."""

    async def connected() -> Result:
        bus = await connect(stack.status()["natsUrl"], "test")
        try:
            return await work(bus)
        finally:
            await bus.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, connected()).result()


async def commands(bus: Bus) -> int:
    return (await bus.js.stream_info(subjects.COMMANDS)).state.messages


async def purge_commands(bus: Bus) -> None:
    await bus.js.purge_stream(subjects.COMMANDS)


async def delete_usage(bus: Bus) -> None:
    await bus.js.delete_stream(subjects.USAGE)


@pytest.mark.accept("A7")
@pytest.mark.long
def test_a_deploy_whose_command_was_lost_is_carried_out(own_stack: Stack) -> None:
    caller = own_stack.caller()
    agent = caller.create_agent()
    before = own_stack.pids()
    os.kill(before["deployer"], signal.SIGSTOP)  # what it was handed already dies with it
    try:
        began = caller.start_deploy(agent["id"])
        until(lambda: on_bus(own_stack, commands) > 0, "the command on the stream")
        on_bus(own_stack, purge_commands)
    finally:
        os.kill(before["deployer"], signal.SIGKILL)
    own_stack.until_replaced(before)
    own_stack.until_ready()
    until(
        lambda: caller.deployment(began["id"])["status"] == "active",
        "the deployment to be carried out",
        seconds=DEPLOYED_S,
    )


@pytest.fixture(scope="module")
def halted_stack(own_stack: Stack) -> Stack:
    """USAGE is not the stream any more of which billing has folded a part."""
    caller = own_stack.caller()
    agent = caller.create_agent()
    caller.deploy(agent["id"])
    caller.invoke(agent["id"], "Count this.")
    until(lambda: sources(caller) == ["both"], "the call to be counted", seconds=NOTICED_S)
    on_bus(own_stack, delete_usage)
    return own_stack


@pytest.mark.accept("A1")
def test_readyz_names_a_halted_projection(halted_stack: Stack) -> None:
    def halted() -> list[str]:
        problems = halted_stack.complaints("billing").values()
        return [problem for problem in problems if "halted" in problem]

    until(lambda: bool(halted()), "billing to say so", seconds=NOTICED_S)
    assert all(subjects.USAGE in problem for problem in halted())


@pytest.mark.accept("A1")
def test_streams_status_names_a_halted_projection(halted_stack: Stack) -> None:
    def halted() -> set[str]:
        ended = halted_stack.webhost("streams", "status", "--json", check=False)
        shown = json.loads(ended.stdout)["services"]
        projections = [each for found in shown.values() for each in found or ()]
        return {p["stream"] for p in projections if "halted" in (p["problem"] or "")}

    until(lambda: halted() == {subjects.USAGE}, "the command to say so", seconds=NOTICED_S)
    ended = halted_stack.webhost("streams", "status", check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("webhost: halted: billing.")


def test_who_waits_for_a_halted_service_is_told_why(halted_stack: Stack) -> None:
    [url] = [p["opsUrl"] for p in halted_stack.status()["processes"] if p["name"] == "billing"]
    port = urlsplit(url).port
    assert port is not None
    until(
        lambda: why_not_ready(port) == "halted: see `webhost streams status`",
        "billing to say so",
        seconds=NOTICED_S,
    )


def sources(caller: Caller) -> list[str]:
    return [event["source"] for event in caller.recent_calls()]
