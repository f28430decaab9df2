"""What was measured, as a table for people and as JSON for programs."""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness import Figure

PROBES = 50


def progress(line: str) -> None:
    """Print progress to stderr."""
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


def machine(directory: Path) -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, and what a durable write costs here."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "loadBefore": load_average(),
        "fsyncMs": round(_fsync_ms(directory), 3),
    }


def load_average() -> float:
    """Return how many tasks wanted to run, on average over the last minute, ours included."""
    return round(os.getloadavg()[0], 2)


def as_json(
    figures: list[Figure], about: dict[str, Any], notes: list[str], failures: dict[str, str]
) -> dict[str, Any]:
    """Return everything, raw numbers included."""
    return {
        "machine": about,
        "figures": [_figure(figure) for figure in figures],
        "notMeasured": failures,
        "notes": notes,
    }


def show(figures: list[Figure], about: dict[str, Any], notes: list[str], out: Console) -> None:
    """Print the table, the raw numbers below each figure's name."""
    described = ", ".join(f"{key} {value}" for key, value in about.items())
    for title, some in by_table(figures).items():
        out.print(_table(title, some))
    out.print(f"Machine: {described}", highlight=False)
    for note in notes:
        out.print(f"- {note}", highlight=False)


def by_table(figures: list[Figure]) -> dict[str, list[Figure]]:
    """Return the figures by the title of their table, in the order in which each first comes."""
    tables: dict[str, list[Figure]] = {}
    for figure in figures:
        tables.setdefault(figure.table, []).append(figure)
    return tables


def _table(title: str, figures: list[Figure]) -> Table:
    if {(figure.aim, figure.limit_path) for figure in figures} == {(None, figures[0].limit_path)}:
        return _list(title, figures)
    table = Table(title=title, show_lines=True)
    for heading in ("figure", "measured", "limit", "ratio", "aim", ""):
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(
            f"[bold]{figure.name}[/bold]\n{figure.path}\nagainst {figure.limit_path}",
            _series(figure.measured, figure.unit),
            _series(figure.limit, figure.unit),
            f"{figure.ratio:.2f}",
            aim(figure),
            {True: "[green]met[/green]", False: "[red]not met[/red]", None: ""}[figure.met],
        )
    return table


def _list(title: str, figures: list[Figure]) -> Table:
    """Figures of one kind, a line each."""
    table = Table(title=title)
    for heading in ("figure", "measured", figures[0].limit_path, "ratio"):
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(
            figure.name,
            _line(figure.measured, figure.unit),
            _line(figure.limit, figure.unit),
            f"{figure.ratio:.2f}",
        )
    return table


def _line(values: list[float], unit: str) -> str:
    return _series(values, unit).replace("\n", "  ")


def _figure(figure: Figure) -> dict[str, Any]:
    aimed = figure.aim
    return {
        "name": figure.name,
        "unit": figure.unit,
        "path": figure.path,
        "limitPath": figure.limit_path,
        "measured": figure.measured,
        "limit": figure.limit,
        "ratio": figure.ratio,
        "reading": figure.reading,
        "value": figure.value,
        "aim": None if aimed is None else {"bound": aimed.bound, "value": aimed.value},
        "met": figure.met,
        "table": figure.table,
    }


def _series(values: list[float], unit: str) -> str:
    raw = " ".join(_number(value) for value in values)
    return f"[bold]{_number(median(values))}[/bold] {unit}\n{raw}"


def aim(figure: Figure) -> str:
    """Return the aim and the value reached, as text."""
    if figure.aim is None:
        return ""
    unit = "" if figure.reading == "ratio" else f" {figure.unit}"
    what = "" if figure.reading == "measured" else f"{figure.reading} "
    bound = f"{figure.aim.bound} {figure.aim.value:g}{unit}"
    return f"{what}{_number(figure.value)}{unit}, {bound}"


def markdown(figures: list[Figure]) -> str:
    """Return the tables of docs/benchmarks.md."""
    return "\n\n".join(_markdown(table) for table in by_table(figures).values())


def _markdown(figures: list[Figure]) -> str:
    lines = ["| figure | measured | limit | ratio | aim | |", "|---|---|---|---|---|---|"]
    for figure in figures:
        met = {True: "met", False: "**not met**", None: ""}[figure.met]
        cells = (
            figure.name,
            _cell(figure.measured, figure.unit),
            _cell(figure.limit, figure.unit),
            f"{figure.ratio:.2f}",
            aim(figure),
            met,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], unit: str) -> str:
    return f"**{_number(median(values))}** {unit} ({', '.join(map(_number, values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fsync_ms(directory: Path) -> float:
    with tempfile.TemporaryFile(dir=directory) as file:
        times: list[float] = []
        for _ in range(PROBES):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1000
