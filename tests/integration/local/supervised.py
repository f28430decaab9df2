"""`python supervised.py DIRECTORY GROUPS`: the supervisor over small processes of a test.

GROUPS is JSON, `[[{"name", "source", "grace"?}]]`; a process is ready when `<name>.ready` exists.
The pids are in `pids.json`, what the supervisor says is on stdout.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from webhost_local import supervisor
from webhost_local.data_dir import DataDir, write_whole
from webhost_local.process import Process, ProcessSpec


def main() -> None:
    data_dir = DataDir.at(Path(sys.argv[1]))

    def spec(name: str, source: str, grace: float = 10.0) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            command=[sys.executable, "-c", source],
            env=dict(os.environ) | supervisor.mark(data_dir),
            cwd=data_dir.root,
            is_ready=(data_dir.root / f"{name}.ready").exists,
            grace_s=grace,
        )

    def on_change(processes: Sequence[Process], ready: bool) -> None:
        pids = {process.spec.name: process.pid for process in processes}
        write_whole(data_dir.root / "pids.json", json.dumps(pids))

    with data_dir.locked():
        supervisor.clear_leftovers(data_dir)
        supervisor.run(
            [[spec(**one) for one in group] for group in json.loads(sys.argv[2])],
            on_change=on_change,
            welcome=lambda seconds: "all ready",
        )


if __name__ == "__main__":
    main()
