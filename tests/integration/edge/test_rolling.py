"""Two replicas are ended and started again in turn, under load, and no caller notices."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from webhost_local.environment import DRAIN_S
from webhost_local.forked import Forked
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.drained import PIECES, STREAM
from tests.support.edge import Edge, start_edge
from tests.support.harness import in_background
from tests.support.service import FORKS

CALLERS, STREAMS, ROUNDS = 8, 2, 2


class Replica:
    """A service on a port of its own."""

    def __init__(self, directory: Path, number: int) -> None:
        self.address, self.ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._log = directory / f"replica-{number}.log"
        self._process: Forked | None = None

    async def start(self, edge: Edge) -> None:
        env = {"LISTEN": self.address, "OPS_LISTEN": self.ops, "DRAIN_S": str(DRAIN_S)}
        with self._log.open("ab") as output:
            self._process = await FORKS.fork(
                "tests.support.drained",
                env={**os.environ, **env},
                cwd=Path.cwd(),
                output=output.fileno(),
            )

        async def is_ready() -> bool:
            try:
                async with edge.http.get(f"http://{self.ops}/readyz") as answer:
                    return answer.status == 200
            except OSError:
                return False

        await eventually(is_ready, "the replica to be ready", seconds=20)

    async def end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(20):
            await self._process.wait()


@pytest.mark.accept("10.rolling")
async def test_a_restart_fails_no_call_and_cuts_no_stream(tmp_path: Path) -> None:
    replicas = [Replica(tmp_path, number) for number in range(2)]
    answers: Counter[tuple[str, int, str]] = Counter()
    async with start_edge(
        tmp_path / "data",
        EDGE_UPSTREAM_GATEWAY=",".join(f"http://{one.address}" for one in replicas),
        EDGE_READINESS=json.dumps(
            {f"http://{one.address}": f"http://{one.ops}/readyz" for one in replicas}
        ),
    ) as edge:

        async def call_on(path: str) -> None:
            while True:
                async with edge.http.post(f"{edge.origin}{path}", json={}) as answer:
                    answers[path, answer.status, await answer.text()] += 1

        for replica in replicas:
            await replica.start(edge)
        callers = [call_on("/v1/invoke/agt_1") for _ in range(CALLERS)]
        streams = [call_on(STREAM) for _ in range(STREAMS)]
        async with in_background(*callers, *streams):
            for replica in replicas * ROUNDS:
                await replica.end()
                await replica.start(edge)
                before = answers.total()
                await asyncio.sleep(1)
                assert answers.total() > before
        for replica in replicas:
            await replica.end()
    print(answers)
    assert set(answers) == {
        ("/v1/invoke/agt_1", 200, "piece;end"),
        (STREAM, 200, "piece;" * PIECES + "end"),
    }
