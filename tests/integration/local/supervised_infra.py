"""`python supervised_infra.py DIRECTORY PORT`: the stack's NATS and Postgres, and no more of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from webhost_local import stack, supervisor
from webhost_local.data_dir import DataDir, write_whole
from webhost_local.process import Process
from webhost_local.replicas import one_of_each


def main() -> None:
    data_dir = DataDir.at(Path(sys.argv[1]))
    with data_dir.locked():
        supervisor.clear_leftovers(data_dir)
        environment = stack.prepare(
            data_dir, port=int(sys.argv[2]), replicas=one_of_each(), nats_nodes=None
        )

        def on_change(processes: Sequence[Process], ready: bool) -> None:
            pids = "\n".join(f"{process.spec.name} {process.pid}" for process in processes)
            write_whole(data_dir.root / "pids", f"{environment.cluster.port}\n{pids}")

        supervisor.run(
            [stack.infrastructure(environment)],
            on_change=on_change,
            welcome=lambda seconds: "all ready",
        )


if __name__ == "__main__":
    main()
