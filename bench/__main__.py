"""`python -m bench [NAME …] [--runs N] [--seconds S] [--full] [--json FILE|-]`

Exits with 0 when everything was measured, whether or not the aims are met, and with 1 otherwise.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn, Protocol

from rich.console import Console
from webhost_kit.process.observability import configure_logging

from bench import agents, fold, gateway, ingest, pointer
from bench.harness import Figure, NotMeasured
from bench.options import Options
from bench.report import as_json, load_average, machine, progress, show
from bench.servers import Infrastructure, infrastructure

WIDTH = 150


class Bench(Protocol):
    """One module of this package: what it measures, and what has to be said about it."""

    NOTES: list[str]

    def measure(self, infrastructure: Infrastructure, options: Options, /) -> list[Figure]: ...


BENCHES: dict[str, Bench] = {
    "gateway": gateway,
    "agents": agents,
    "pointer": pointer,
    "ingest": ingest,
    "fold": fold,
}


def main() -> int:
    """Measure what is asked for, print it, and return the exit code."""
    arguments = _arguments()
    options = Options(arguments.runs, arguments.seconds, arguments.full)
    configure_logging("bench", log_format="console", level="error")
    signal.signal(signal.SIGTERM, _stop)
    figures: list[Figure] = []
    notes: list[str] = []
    failures: dict[str, str] = {}
    about = machine(Path(tempfile.gettempdir()))
    for name in arguments.names or BENCHES:
        # Each has servers of its own, so that none measures what another left behind.
        with tempfile.TemporaryDirectory(prefix="webhost-bench-") as directory:
            progress(f"{name}: starting NATS and Postgres")
            try:
                with infrastructure(Path(directory)) as servers:
                    figures += BENCHES[name].measure(servers, options)
                    notes += BENCHES[name].NOTES
            except NotMeasured as error:
                failures[name] = str(error)
                progress(f"{name}: not measured: {error}")
    about["loadAfter"] = load_average()
    result = json.dumps(as_json(figures, about, notes, failures), indent=2)
    if arguments.json == "-":
        print(result)
    else:
        show(figures, about, notes, Console(width=None if sys.stdout.isatty() else WIDTH))
        if arguments.json is not None:
            Path(arguments.json).write_text(result + "\n")
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHES)}")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each (3)")
    parser.add_argument("--seconds", type=int, default=5, help="of each run (5)")
    parser.add_argument("--full", action="store_true", help="the large sizes: takes minutes more")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if arguments.runs < 1 or arguments.seconds <= 0:
        parser.error("--runs and --seconds must be positive")
    return arguments


def _stop(*_: object) -> NoReturn:
    sys.exit(130)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        progress("stopped")
        sys.exit(130)
