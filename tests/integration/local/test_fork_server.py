"""The fork server: what it starts is what an interpreter of its own would be."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from webhost_local.data_dir import StackError
from webhost_local.forked import Forked, ForkServer

from tests.support.deadline import eventually, until

SAYS = """
import gc, json, os, random, sys
import uuid_utils
from nacl.utils import random as sodium
print(json.dumps({
    "name": __name__, "argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ),
    "leads": os.getsid(0) == os.getpid(), "collects": gc.isenabled(),
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
    "drawn": [random.random(), sodium(8).hex(), str(uuid_utils.uuid4()),
              str(uuid_utils.uuid7())[-8:]],
}))
print("and an error", file=sys.stderr)
sys.exit(int(os.environ["CODE"]))
"""
STAYS = "import time\ntime.sleep(600)\n"
# Which libraries a service loads that its server had not.
LOADS = """
import importlib, os, sys
before = set(sys.modules)
for module in os.environ["MODULES"].split(","):
    importlib.import_module(module)
new = {name.partition(".")[0] for name in sys.modules if name not in before}
before = {name.partition(".")[0] for name in before}
print(*sorted(new - before - sys.stdlib_module_names))
"""
# Forks a process that stays, says its pid, and waits to be killed.
SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from webhost_local.forked import ForkServer

async def main():
    forks = ForkServer(dict(os.environ), Path.cwd())
    print((await forks.fork("stays", env={}, cwd=Path.cwd(), output=2)).pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class Forks:
    """A fork server that finds the modules of `directory`; `log` is what its processes printed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.server = ForkServer({"PYTHONPATH": str(directory), "PYTHONUNBUFFERED": "1"}, directory)

    def close(self) -> None:
        self.server.close()

    async def fork(self, module: str, **env: str) -> Forked:
        with self.log.open("ab") as output:
            return await self.server.fork(
                module, env=env, cwd=self.directory, output=output.fileno()
            )

    async def said(self, **env: str) -> Any:
        """What one that says all about itself says."""
        self.log.unlink(missing_ok=True)
        process = await self.fork("says", **env)
        assert await process.wait() == int(env["CODE"]) == process.returncode
        said, error = self.log.read_text().splitlines()
        assert error == "and an error"
        return json.loads(said)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    directory = tmp_path_factory.mktemp("forks")
    for name, source in (("says", SAYS), ("stays", STAYS), ("loads", LOADS)):
        (directory / f"{name}.py").write_text(source)
    with closing(Forks(directory)) as forks:
        yield forks


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return not psutil.pid_exists(pid)

    await eventually(is_gone, f"{pid} to be gone", seconds=10)


async def serves_again(forks: Forks) -> None:
    async def forked() -> bool:
        try:
            await forks.said(CODE="0")
        except StackError:  # it was asked while it died
            return False
        return True

    await eventually(forked, "a new server", seconds=20)


async def test_it_is_what_an_interpreter_of_its_own_would_be(forks: Forks) -> None:
    stays = await forks.fork("stays", OTHERS="secret")
    said = await forks.said(CODE="3", MINE="one")
    assert said["name"] == "__main__"
    assert said["argv"] == [str(forks.directory / "says.py")]
    assert said["cwd"] == str(forks.directory)
    assert said["env"] == {"CODE": "3", "MINE": "one"}
    assert said["leads"]
    assert said["collects"]
    assert said["descriptors"] == [0, 1, 2]
    assert psutil.Process(stays.pid).name() == "stays"
    stays.kill()
    await stays.wait()


async def test_no_two_draw_the_same(forks: Forks) -> None:
    one, other = [(await forks.said(CODE="0"))["drawn"] for _ in range(2)]
    assert set(one).isdisjoint(other)


async def test_its_end_is_told(forks: Forks) -> None:
    killed, stopped = [await forks.fork("stays") for _ in range(2)]
    assert killed.returncode is None
    killed.kill()
    stopped.terminate()
    assert await killed.wait() == -signal.SIGKILL == killed.returncode
    assert await stopped.wait() == -signal.SIGTERM
    stopped.terminate()  # is no one else's business any more


async def test_what_waits_for_an_end_may_be_cancelled(forks: Forks) -> None:
    process = await forks.fork("stays")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.05)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_who_has_ended_meanwhile_may_be_signalled(forks: Forks) -> None:
    process = await forks.fork("stays")
    os.kill(process.pid, signal.SIGKILL)
    # Without a turn of the loop, which would read of its end.
    until(lambda: not psutil.pid_exists(process.pid), "the server to reap it", seconds=10)
    process.terminate()
    assert await process.wait() == -signal.SIGKILL


async def test_a_request_that_is_too_large_ends_nobody(forks: Forks) -> None:
    stays = await forks.fork("stays")
    with pytest.raises(StackError, match="too large"):
        await forks.fork("says", CODE="0", LARGE="x" * 70_000)
    await forks.said(CODE="0")
    assert stays.returncode is None
    assert psutil.Process(psutil.Process(stays.pid).ppid()).num_threads() == 1
    stays.kill()
    await stays.wait()


async def test_who_asks_while_the_server_dies_is_told(forks: Forks) -> None:
    stays = await forks.fork("stays")
    server = psutil.Process(psutil.Process(stays.pid).ppid())
    server.suspend()
    asking = asyncio.create_task(forks.fork("stays"))
    await asyncio.sleep(0.05)  # it is sent, and lies unread
    server.kill()
    async with asyncio.timeout(5):
        with pytest.raises(StackError):
            await asking
        assert await stays.wait() == -signal.SIGKILL
    await serves_again(forks)


async def test_what_nobody_waits_for_any_more_is_killed(forks: Forks) -> None:
    """As when a loop ends, or who asked was cancelled."""
    pids: list[int] = []

    async def ask() -> None:
        pids.append((await forks.fork("stays")).pid)

    await asyncio.to_thread(asyncio.run, ask())
    await gone(pids[0])


async def test_a_module_that_is_not_there_fails_like_python(forks: Forks) -> None:
    process = await forks.fork("nowhere")
    assert await process.wait() == 1
    assert "No module named nowhere" in forks.log.read_text()


@pytest.mark.parametrize("service", ["gateway", "telemetry_ingest", "api", "deployer", "billing"])
async def test_a_service_has_no_library_left_to_load(forks: Forks, service: str) -> None:
    forks.log.unlink(missing_ok=True)
    modules = f"webhost_kit.process.start,webhost_{service}.app,webhost_{service}.settings"
    process = await forks.fork("loads", MODULES=modules)
    assert await process.wait() == 0
    loaded = set(forks.log.read_text().split())
    assert f"webhost_{service}" in loaded
    assert {name for name in loaded if not name.startswith("webhost_")} == set()


async def test_many_at_once(forks: Forks) -> None:
    processes = await asyncio.gather(*(forks.fork("stays") for _ in range(30)))
    assert len({process.pid for process in processes}) == 30
    for process in processes:
        process.kill()
    ended = await asyncio.gather(*(process.wait() for process in processes))
    assert set(ended) == {-signal.SIGKILL}


async def test_a_server_that_dies_takes_them_along_and_comes_back(forks: Forks) -> None:
    process = await forks.fork("stays")
    psutil.Process(psutil.Process(process.pid).ppid()).kill()
    assert await process.wait() == -signal.SIGKILL
    await gone(process.pid)
    await serves_again(forks)


async def test_none_outlives_who_asked_for_it(forks: Forks) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR),
        env={**os.environ, "PYTHONPATH": str(forks.directory)},
        cwd=forks.directory,
        stdout=asyncio.subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    pid = int(await supervisor.stdout.readline())
    server = psutil.Process(pid).ppid()
    supervisor.kill()
    await supervisor.wait()
    await gone(pid)
    await gone(server)


async def test_closing_ends_all(forks: Forks) -> None:
    process = await forks.fork("stays")
    forks.close()
    await gone(process.pid)
    assert await process.wait() == -signal.SIGKILL
    assert (await forks.said(CODE="0"))["name"] == "__main__"


async def test_one_that_somebody_stopped_can_be_resumed_and_closed(tmp_path: Path) -> None:
    (tmp_path / "stays.py").write_text(STAYS)
    with closing(Forks(tmp_path)) as forks:
        stays = await forks.fork("stays")
        server = psutil.Process(psutil.Process(stays.pid).ppid())
        server.suspend()
        stays.kill()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stays.wait(), 0.2)
        forks.server.resume()
        assert await asyncio.wait_for(stays.wait(), 10) == -signal.SIGKILL
        server.suspend()
    await gone(server.pid)
