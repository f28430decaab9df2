"""The processes of a rebuild, one per processor up to four, and the protocol to them."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from webhost_contracts import subjects

from webhost_billing.rebuild.refolding import Progress, Targets

ENDED_S = 5.0
_MOST = 4
"""Each takes some 100 MB, of a container that has room for these beside its service."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class PoolFailed(Exception):
    """A process of the rebuild failed or died; the message says how."""


Folded = Callable[[int], Awaitable[None]]
"""Called with how many more messages have been folded and committed."""


class Pool:
    """Processes that fold the stream into one generation, each its own partitions."""

    def __init__(self, processes: Sequence["_Process"]) -> None:
        self._processes = processes

    async def fold_up_to(self, targets: Targets, folded: Folded) -> None:
        """Return when every partition is folded up to its target. Raises PoolFailed."""
        try:
            async with asyncio.TaskGroup() as group:
                for process in self._processes:
                    group.create_task(process.fold_up_to(targets, folded))
        except* PoolFailed as broken:
            raise broken.exceptions[0] from None


@asynccontextmanager
async def start_pool(
    generation: int, partitions: Sequence[int] = range(subjects.PARTITIONS)
) -> AsyncGenerator[Pool]:
    """Start the processes for these partitions; stop them when the block ends."""
    size = min(processors(), _MOST, len(partitions))
    processes: list[_Process] = []
    try:
        for number in range(size):
            process = await _start(generation, partitions[number::size])
            processes.append(process)
        yield Pool(processes)
    finally:
        await asyncio.gather(*(process.end() for process in processes))


def processors(quota: Path = _QUOTA) -> int:
    """How many processors this process may use, by its affinity and its control group's quota."""
    allowed = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        most, period = quota.read_text().split()
        return min(allowed, max(1, int(most) // int(period)))
    return allowed


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, partitions: Sequence[int]) -> None:
        self._process = process
        self._partitions = partitions

    async def fold_up_to(self, targets: Targets, folded: Folded) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mine = {partition: targets.get(partition, 0) for partition in self._partitions}
        self._process.stdin.write(msgspec.json.encode(mine) + b"\n")
        while line := await self._process.stdout.readline():
            progress = msgspec.json.decode(line, type=Progress)
            if progress.failed is not None:
                raise PoolFailed(progress.failed)
            if progress.reached:
                return
            await folded(progress.messages)
        raise PoolFailed("a process of the rebuild died")

    async def end(self) -> None:
        """End it; it has nothing to finish."""
        if self._process.returncode is None:
            self._process.kill()
        async with asyncio.timeout(ENDED_S):
            await self._process.wait()


async def _start(generation: int, partitions: Sequence[int]) -> _Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "webhost_billing.rebuild"),
        *map(str, (generation, *partitions)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    return _Process(process, partitions)
