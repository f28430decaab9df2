"""`python -m bench.scale [--rates 100,1000,5000,10000] [--agents N] [--users N] [--cells N]
[--hot-share S] [--seconds S] [--seed N] [--speed F] [--outages] [--parameters FILE]
[--json FILE|-]`

For each rate of calls: what limits a cell, how many cells and processes it takes, what a million
calls cost, and, simulated, how long calls take and what waits. The same seed gives the same output.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from bench.scale import capacity
from bench.scale.capacity import Parameters, Wall
from bench.scale.measured import Measured, faster, measured
from bench.scale.run import WARM_UP_S, Kind, Outage, Result, open_load

WIDTH = 150
RATES = "100,1000,5000,10000"
OUTAGE_AFTER_S = 2.0
OUTAGE_S = 40.0
"""Long enough for a lease to end twice, and for a fold to catch up."""


def main() -> None:
    """Compute, simulate, and print."""
    arguments = _arguments()
    costs = faster(measured(), arguments.speed)
    chosen = capacity.parameters(arguments.parameters)
    chosen = msgspec.structs.replace(
        chosen,
        agents=arguments.agents or chosen.agents,
        users=arguments.users or chosen.users,
    )
    report: dict[str, Any] = {
        "rates": [
            _rate(costs, chosen, float(rate), arguments) for rate in arguments.rates.split(",")
        ]
    }
    report["scriptDollarsPerMonth"] = capacity.script_dollars(chosen)
    if arguments.outages:
        report["outages"] = outages(costs, chosen, arguments)
    if arguments.json == "-":
        print(json.dumps(report, indent=2))
        return
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    _show(report, Console(width=None if sys.stdout.isatty() else WIDTH))


def _rate(
    costs: Measured, chosen: Parameters, rate: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    cells = arguments.cells or capacity.cells_for(costs, chosen, rate)
    plan = replace(capacity.sized(costs, chosen, rate / cells), hot_share=arguments.hot_share)
    result = open_load(
        costs,
        plan,
        rate=rate / cells,
        worker_ms=chosen.worker_ms,
        seconds=arguments.seconds,
        seed=arguments.seed,
    )
    return {
        "rate": rate,
        "cells": cells,
        "plan": asdict(plan),
        "simulated": _added(result, chosen),
        "walls": [asdict(wall) for wall in capacity.walls(costs, chosen, rate)],
        "perMillion": capacity.per_million(costs, chosen, rate),
    }


def outages(
    costs: Measured, chosen: Parameters, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Simulate a cell of the largest rate in which a gateway dies, and one with billing."""
    rate = max(float(rate) for rate in arguments.rates.split(","))
    cells = arguments.cells or capacity.cells_for(costs, chosen, rate)
    plan = capacity.sized(costs, chosen, rate / cells)
    kinds: tuple[Kind, ...] = get_args(Kind)
    return [
        {
            "what": what,
            "rate": rate / cells,
            "cells": cells,
            "simulated": _added(
                open_load(
                    costs,
                    plan,
                    rate=rate / cells,
                    worker_ms=chosen.worker_ms,
                    seconds=OUTAGE_S,
                    seed=arguments.seed,
                    outage=Outage(what=what, at_s=WARM_UP_S + OUTAGE_AFTER_S),
                ),
                chosen,
            ),
        }
        for what in kinds
    ]


def _added(result: Result, chosen: Parameters) -> dict[str, Any]:
    """Return the result; what a call takes has the Worker's own time in it."""
    return asdict(result) | {"workerMs": chosen.worker_ms}


def _show(report: dict[str, Any], out: Console) -> None:
    rates: list[dict[str, Any]] = report["rates"]
    table = Table(title="Calls a second, all cells together")
    for heading in ("", *(f"{each['rate']:,.0f}" for each in rates)):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in _rows():
        table.add_row(name, *(value(each) for each in rates))
    out.print(table)
    for each in rates:
        walls = Table(title=f"What one cell can do, at {each['rate']:,.0f} calls/s in all")
        walls.add_column("limit")
        walls.add_column("calls/s", justify="right")
        for wall in (Wall(**found) for found in each["walls"]):
            walls.add_row(wall.name, f"{wall.per_second:,.1f}")
        out.print(walls)
    costs = Table(title="A million calls cost")
    for heading in ("", *(f"at {each['rate']:,.0f}/s" for each in rates)):
        costs.add_column(heading, justify="right" if heading else "left")
    for name in rates[0]["perMillion"]:
        costs.add_row(name, *(f"{each['perMillion'][name]:,.2f}" for each in rates))
    out.print(costs)
    out.print(f"The agents' scripts cost {report['scriptDollarsPerMonth']:,.0f} dollars a month.")
    if "outages" in report:
        out.print(_of_outages(report["outages"]))


def _of_outages(found: list[dict[str, Any]]) -> Table:
    rate = found[0]["rate"]
    table = Table(title=f"One process dies in a cell of {rate:,.0f} calls/s, {OUTAGE_S:g} s seen")
    for heading in ("", *(each["what"] for each in found)):
        table.add_column(heading, justify="right" if heading else "left")
    for label, name in (
        ("calls that failed", "failed"),
        ("calls that were refused", "refused"),
        ("added to the Worker's time, p50, ms", "added_p50_ms"),
        ("added, p99 of the worst second, ms", "worst_second_p99_ms"),
        ("facts waiting at the relay, most", "relay_most"),
        ("facts waiting for the fold, most", "fold_most"),
        ("fold as before after, s", "fold_back_s"),
    ):
        table.add_row(label, *(_number(each["simulated"][name]) for each in found))
    return table


def _number(value: float | None) -> str:
    return "not seen" if value is None else f"{value:,.0f}"


def _rows() -> list[tuple[str, Callable[[dict[str, Any]], str]]]:
    def plan(name: str) -> Callable[[dict[str, Any]], str]:
        def value(each: dict[str, Any]) -> str:
            return f"{each['plan'][name]:,}"

        return value

    def seen(name: str, shown: str = ",.0f") -> Callable[[dict[str, Any]], str]:
        def value(each: dict[str, Any]) -> str:
            return format(each["simulated"][name], shown)

        return value

    return [
        ("first limit that is no disk's size", _first),
        ("cells", _cells),
        ("gateways of a cell", plan("gateways")),
        ("telemetry-ingest of a cell", plan("ingests")),
        ("billing processes of a cell", plan("billings")),
        ("Postgres' cores of a cell", plan("postgres_cores")),
        ("added to the Worker's time, p50, ms", seen("added_p50_ms", ".1f")),
        ("added to the Worker's time, p99, ms", seen("added_p99_ms", ".1f")),
        ("a call, p50, ms", seen("p50_ms")),
        ("a call, p99, ms", seen("p99_ms")),
        ("refused", seen("refused")),
        ("gateway busy", seen("gateway_busy", ".0%")),
        ("Postgres busy", seen("postgres_busy", ".0%")),
        ("facts waiting at the relay, most", seen("relay_most")),
        ("facts waiting for the fold, most", seen("fold_most")),
        ("facts waiting for the fold, at the end", seen("fold_end")),
    ]


def _first(each: dict[str, Any]) -> str:
    walls = [Wall(**found) for found in each["walls"]]
    disks = capacity.disk_walls(walls)
    return next(wall.name for wall in walls if wall.name not in disks)


def _cells(each: dict[str, Any]) -> str:
    return f"{each['cells']:,}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--rates", default=RATES, help=f"calls a second ({RATES})")
    parser.add_argument("--agents", type=int)
    parser.add_argument("--users", type=int, help="who call, evenly")
    parser.add_argument("--cells", type=int, help="instead of as many as it takes")
    parser.add_argument("--hot-share", type=float, default=0.0, help="of calls that are one user's")
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated, of each rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1.0, help="processors so many times as fast")
    parser.add_argument("--outages", action="store_true", help="one process of each kind dies")
    parser.add_argument("--parameters", type=Path, default=capacity.FILE, metavar="FILE")
    parser.add_argument("--json", metavar="FILE", help="write JSON to a file; - for stdout")
    return parser.parse_args()


if __name__ == "__main__":
    main()
