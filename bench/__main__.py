"""`python -m bench [NAME …] [--runs N] [--seconds S] [--full|--short] [--peers] [--report]
[--json FILE|-] [--markdown]`

Exits with 1 when something was not measured or missed its aim; with `--report` missed aims are only
reported.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rich.console import Console
from webhost_kit.process.observability import configure_logging

from bench import agents, fold, footprint, front, gateway, ingest, peers, pointer, soak, variants
from bench.harness import Figure, NotMeasured
from bench.options import Options
from bench.report import aim, as_json, load_average, machine, markdown, progress, show
from bench.servers import Infrastructure, infrastructure

WIDTH = 150


class Bench(Protocol):
    """One module of this package: its measurements, and notes on them."""

    NOTES: list[str]

    def measure(self, infrastructure: Infrastructure, options: Options, /) -> list[Figure]: ...


BENCHES: dict[str, Bench] = {
    "gateway": gateway,
    "front": front,
    "agents": agents,
    "pointer": pointer,
    "ingest": ingest,
    "fold": fold,
    "variants": variants,
    "soak": soak,
    "peers": peers,
    "footprint": footprint,
}


def main() -> int:
    """Measure what is asked for, print it, and return the exit code."""
    arguments = _arguments()
    options = Options(arguments.runs, arguments.seconds, arguments.full, arguments.short)
    configure_logging("bench", log_format="console", level="error")
    signal.signal(signal.SIGTERM, _stop)
    figures: list[Figure] = []
    notes: list[str] = []
    failures: dict[str, str] = {}
    about = machine(Path(tempfile.gettempdir()))
    for name in chosen(arguments):
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
    deliver(arguments, figures, about, notes, failures)
    return exit_code(figures, failures, report=arguments.report)


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Return what to measure: what is named, or all that the size is for."""
    if arguments.names:
        names = list(arguments.names)
    else:
        left_out = {"peers", "footprint"}
        if not arguments.full:
            left_out.add("soak")
        if arguments.short:
            left_out.add("variants")
        names = [name for name in BENCHES if name not in left_out]
    if arguments.peers and "peers" not in names:
        names.append("peers")
    return names


def deliver(
    arguments: argparse.Namespace,
    figures: list[Figure],
    about: dict[str, Any],
    notes: list[str],
    failures: dict[str, str],
) -> None:
    """Write the file that was asked for, if any, and print the table or the JSON."""
    result = json.dumps(as_json(figures, about, notes, failures), indent=2)
    if arguments.json not in (None, "-"):
        Path(arguments.json).write_text(result + "\n")
    if arguments.json == "-":
        print(result)
    elif arguments.markdown:
        print(markdown(figures))
    else:
        show(figures, about, notes, Console(width=None if sys.stdout.isatty() else WIDTH))


def exit_code(figures: list[Figure], failures: dict[str, str], *, report: bool) -> int:
    """Report what was missed; return the exit code."""
    missed = [figure for figure in figures if figure.met is False]
    for figure in missed:
        progress(f"missed: {figure.name}: {aim(figure)}")
    return 1 if failures or (missed and not report) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHES)}")
    parser.add_argument("--runs", type=int, help="interleaved runs of each (3; short: 1)")
    parser.add_argument("--seconds", type=int, help="of each run (5; short: 1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the large sizes: takes minutes more")
    size.add_argument("--short", action="store_true", help="a trial of each: about a minute")
    parser.add_argument("--peers", action="store_true", help="LiteLLM's proxy too; installs it")
    parser.add_argument("--report", action="store_true", help="end with 0 when aims are missed")
    parser.add_argument("--markdown", action="store_true", help="the table for docs/benchmarks.md")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    arguments.runs = arguments.runs or (1 if arguments.short else 3)
    arguments.seconds = arguments.seconds or (1 if arguments.short else 5)
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
