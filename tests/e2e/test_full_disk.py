"""Postgres on a disk that is really full: services wait for space, none exits, nothing is lost."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

ROOM_MB = 200
"""For what Postgres has when it is new, and for the log that it recycles."""
SERVICES = ("api", "gateway", "deployer", "telemetry-ingest", "billing")
NOTICED_S = 60
BACK_S = 60

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@pytest.fixture
def small_disk_stack() -> Iterator[Stack]:
    """Its Postgres keeps its data on a disk of its own, which is small."""
    with running_stack() as stack:
        directory, aside = stack.data_dir / "postgres", stack.data_dir / "aside"
        mounted = False
        try:
            with stack.stopped():
                directory.rename(aside)
                directory.mkdir()
                run("mount", "-t", "tmpfs", "-o", f"size={ROOM_MB}m", "tmpfs", str(directory))
                mounted = True
                run("cp", "-a", f"{aside}/.", str(directory))
            yield stack
        finally:
            stack.stop()
            if mounted:
                run("umount", str(directory))
            stack.launch()


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def fill(ballast: Path) -> None:
    """Leave no byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = b"\0" * size
            try:
                while file.write(block):
                    pass
            except OSError:
                continue


@pytest.mark.accept("A5")
def test_all_wait_for_room_and_none_ends(small_disk_stack: Stack) -> None:
    stack = small_disk_stack
    caller = stack.caller()
    agent = caller.create_agent()
    caller.deploy(agent["id"])
    caller.invoke(agent["id"], "Before.")
    answered = 1
    before = stack.pids()
    ballast = stack.data_dir / "postgres" / "ballast"
    fill(ballast)

    def refused() -> bool:
        nonlocal answered
        answer = caller.post_invoke(agent["id"], "Is there room?" * 500)
        answered += answer.status_code == 200
        assert answer.status_code in (200, 503), answer.text
        fill(ballast)
        return answer.status_code == 503

    until(refused, "a call to be refused", seconds=NOTICED_S)
    created = 1
    for number in range(20):
        # The database's log may have room for a few more; what is answered must be there later.
        answer = caller.http.post(
            "/v1/agents", json={"name": f"{number}", "description": "x" * 500}
        )
        assert answer.status_code in (201, 503), answer.text
        created += answer.status_code == 201
        fill(ballast)
    ballast.unlink()

    stack.until_ready()

    def counted() -> bool:
        return caller.usage()["usage"]["requests"] == answered

    until(lambda: caller.post_invoke(agent["id"], "After.").status_code == 200, "room", seconds=20)
    answered += 1
    until(counted, "every answered call to be counted, and no other", seconds=BACK_S)
    assert len(caller.http.get("/v1/agents", params={"limit": 100}).json()["agents"]) == created
    assert {name: stack.pids()[name] for name in SERVICES} == {n: before[n] for n in SERVICES}
