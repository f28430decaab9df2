"""The main job as `make demo` runs it: twice in one directory, once in each layout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_S = 110


@pytest.mark.long  # `make demo` is run for every change as well
@pytest.mark.accept("1", "6.2")
@pytest.mark.timeout(240)
def test_the_demo_runs_twice_in_the_same_directory(tmp_path: Path) -> None:
    ours = ("WEBHOST_", "NATS_", "CLOUDFLARE_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    for layout in ({}, {"CLOUDFLARE_DISPATCH_NAMESPACE": "agents"}):
        run = subprocess.run(
            [sys.executable, "-m", "webhost_cli", "demo"],
            cwd=tmp_path,
            env=inherited | layout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        assert "The demo is done" in run.stdout
