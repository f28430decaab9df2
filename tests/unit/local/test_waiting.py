"""The supervisor says whom it still waits for, and why where the process can say."""

import asyncio
import io
import sys
from pathlib import Path

import pytest
from webhost_local import supervisor
from webhost_local.logview import LogView
from webhost_local.process import ProcessSpec
from webhost_local.supervisor import Supervisor

from tests.support.deadline import eventually


async def test_who_is_late_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(name: str, why: str | None) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            command=[sys.executable, "-c", "import time; time.sleep(60)"],
            env={},
            cwd=tmp_path,
            is_ready=lambda: False,
            why_not=lambda: why,
        )

    monkeypatch.setattr(supervisor, "_PATIENCE_S", 0.05)
    output = io.StringIO()
    log = LogView(output, ["api", "billing"])
    group = [late("api", None), late("billing", "halted: see `webhost streams status`")]
    said = "still waiting for api, billing (halted: see `webhost streams status`)"

    async def said_so() -> bool:
        return said in output.getvalue().splitlines()

    running = asyncio.create_task(Supervisor([group], log, lambda _: None).run(lambda _: None))
    try:
        await eventually(said_so, "the supervisor to say so")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        log.close()
