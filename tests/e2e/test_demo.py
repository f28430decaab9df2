"""The main job as `make demo` runs it: twice in one directory, everything checked by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_S = 110


@pytest.mark.accept("1")
@pytest.mark.timeout(240)
def test_the_demo_runs_twice_in_the_same_directory(tmp_path: Path) -> None:
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-m", "webhost_cli", "demo"],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith(("WEBHOST_", "NATS_"))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        assert "The demo is done" in run.stdout
