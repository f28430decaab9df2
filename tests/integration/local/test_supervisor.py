"""The supervisor: order, restarts, a clean end, and nothing left however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from webhost_local.child import processes_marked
from webhost_local.supervisor import MARK

from tests.support.deadline import until

SCRIPT = Path(__file__).with_name("supervised.py")

# Says when it is ready and when it is told to stop, in the order of the whole stack.
CALM = """
import os, pathlib, signal, sys, time
name = {name!r}
def stop(*_):
    print(name, "stops", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(name + ".ready").touch()
print(name, "runs", flush=True)
while True:
    time.sleep(60)
"""
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("stubborn.ready").touch()
while True:
    time.sleep(60)
"""
# Leaves a process of its own behind, in a session of its own, and dies when told.
PARENT = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={apart})
pathlib.Path("parent.ready").touch()
while True:
    time.sleep(60)
"""


class Supervised:
    """One supervisor process; its output so far is in `log()`."""

    def __init__(self, directory: Path, groups: list[list[dict[str, Any]]]) -> None:
        self.directory = directory
        self._log = directory / f"{uuid4()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT, directory, json.dumps(groups)], stdout=log, stderr=log
            )

    def log(self) -> str:
        return self._log.read_text()

    def pid(self, name: str) -> int:
        return json.loads((self.directory / "pids.json").read_text())[name]

    def family(self) -> list[psutil.Process]:
        return [
            process
            for process in processes_marked(MARK, str(self.directory))
            if process.pid != self.process.pid and _alive(process)
        ]

    def until_ready(self) -> None:
        until(lambda: "all ready" in self.log(), "the stack to be ready", seconds=20)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def run(*groups: list[dict[str, Any]]) -> Supervised:
        started.append(Supervised(tmp_path, list(groups)))
        return started[-1]

    yield run
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()
        for process in supervised.family():
            process.kill()


def calm(name: str) -> dict[str, Any]:
    return {"name": name, "source": CALM.format(name=name)}


def test_it_starts_in_order_and_stops_in_reverse(start: Start) -> None:
    stack = start([calm("first")], [calm("second"), calm("third")])
    stack.until_ready()
    assert stack.stop() == 0
    said = [line.partition("| ")[2] for line in stack.log().splitlines() if "| " in line]
    assert said[0] == "first runs"
    assert set(said[1:3]) == {"second runs", "third runs"}
    assert set(said[3:5]) == {"second stops", "third stops"}
    assert said[5:] == ["first stops"]
    assert stack.family() == []


def test_the_log_has_a_plain_prefix_of_fixed_width(start: Start) -> None:
    stack = start([calm("a"), calm("longer")])
    stack.until_ready()
    stack.stop()
    assert "a      | a runs\n" in stack.log()
    assert "longer | longer runs\n" in stack.log()
    assert "\x1b" not in stack.log()


def test_what_dies_is_started_again(start: Start) -> None:
    stack = start([calm("one"), calm("other")])
    stack.until_ready()
    other, killed = stack.pid("other"), stack.pid("one")
    os.kill(killed, signal.SIGKILL)
    until(lambda: stack.pid("one") != killed, "a new process")
    assert psutil.pid_exists(stack.pid("one"))
    assert stack.pid("other") == other
    until(lambda: stack.log().count("one runs") == 2, "the new process to run")
    assert "ended by SIGKILL" in stack.log()
    assert stack.stop() == 0
    assert stack.family() == []


def test_what_keeps_dying_is_started_less_and_less_often(start: Start) -> None:
    stack = start([{"name": "broken", "source": "raise SystemExit(3)"}])
    until(lambda: "again in 0.8 s" in stack.log(), "the third delay")
    delays = [line.split()[-2] for line in stack.log().splitlines() if "starting again" in line]
    assert delays == ["0.2", "0.4", "0.8"]
    assert "ended with exit code 3" in stack.log()
    began = time.monotonic()
    assert stack.stop() == 0
    assert time.monotonic() - began < 5


def test_what_cannot_run_as_configured_ends_the_stack(start: Start) -> None:
    refusing = "import sys; print('cannot start: missing X', file=sys.stderr); sys.exit(78)"
    stack = start([calm("calm")], [{"name": "wrong", "source": refusing}])
    assert stack.process.wait(timeout=20) == 1
    last = stack.log().splitlines()[-1]
    assert last.endswith("wrong cannot run as configured: cannot start: missing X")
    assert "calm stops" in stack.log()
    assert "starting again" not in stack.log()
    assert stack.family() == []


def test_what_does_not_stop_is_killed_after_its_grace(start: Start) -> None:
    stack = start([{"name": "stubborn", "source": STUBBORN, "grace": 0.5}])
    stack.until_ready()
    assert stack.stop() == 0
    assert "still there after 0.5 s, killed" in stack.log()
    assert stack.family() == []


def test_what_a_process_started_itself_goes_with_it(start: Start) -> None:
    stack = start([{"name": "parent", "source": PARENT.format(apart=False)}])
    stack.until_ready()
    assert len(stack.family()) == 2
    stack.stop()
    until(lambda: stack.family() == [], "the grandchild to be gone")


def test_a_killed_supervisor_leaves_no_process(start: Start) -> None:
    stack = start(
        [calm("calm"), {"name": "stubborn", "source": STUBBORN}],
    )
    stack.until_ready()
    assert len(stack.family()) == 2
    stack.process.kill()
    stack.process.wait()
    until(lambda: stack.family() == [], "its processes to be gone")


def test_the_next_start_ends_what_is_left(start: Start) -> None:
    stack = start([{"name": "parent", "source": PARENT.format(apart=True)}])
    stack.until_ready()
    stack.process.kill()
    stack.process.wait()
    until(lambda: len(stack.family()) == 1, "the grandchild to be alone")
    [orphan] = stack.family()
    again = start([calm("calm")])
    again.until_ready()
    assert not _alive(orphan)
    assert [process.pid for process in again.family()] == [again.pid("calm")]


def test_two_do_not_run_in_one_directory(start: Start) -> None:
    stack = start([calm("calm")])
    stack.until_ready()
    second = start([calm("calm")])
    assert second.process.wait(timeout=20) != 0
    assert f"a stack is already running in {stack.directory}" in second.log()
    assert len(stack.family()) == 1


def test_a_reader_that_does_not_read_stops_nothing(tmp_path: Path) -> None:
    chatty = "import pathlib\npathlib.Path('chatty.ready').touch()\nwhile True: print('x' * 200)"
    groups = json.dumps([[{"name": "chatty", "source": chatty}]])
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path, groups], stdout=writing)
    os.close(writing)
    until(lambda: (tmp_path / "chatty.ready").exists(), "the process to run")
    process.terminate()
    assert process.wait(timeout=20) == 0
    os.close(reading)
