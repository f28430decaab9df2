"""`webhost billing …`, for operators."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from webhost_contracts import subjects
from webhost_contracts.rpc import (
    Counters,
    Difference,
    RebuildProgress,
    RebuildRequest,
    SilentAgentsReply,
    SilentAgentsRequest,
)

from webhost_cli import bus, output
from webhost_cli.options import BusOption, JsonOption
from webhost_cli.rebuild import rebuild as request_rebuild

_COUNTERS = Counters.__struct_fields__
_TIMEOUT_S = 20.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="billing", help="Operators: usage.", no_args_is_help=True)
    group.command()(rebuild)
    group.command()(silent)
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Operators: usage."""


def rebuild(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and change nothing.")] = False,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="This user only.")] = None,
    period: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="This period only.")] = None,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild usage from the event stream, and show what was different."""
    request = RebuildRequest(dry_run=dry_run, user_id=user, period_key=period)
    url = bus.nats_url_of(data_dir)
    with Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.errors(),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)

        def show(line: RebuildProgress) -> None:
            bar.update(task, completed=line.processed, total=line.total)

        result = bus.run(_rebuild(url, request, show))
    if as_json:
        output.print_json(result)
    else:
        _show(result)


def silent(
    hours: Annotated[int, typer.Option(min=1, max=168, help="Look so far back.")] = 24,
    at_least: Annotated[
        int, typer.Option(min=1, help="Leave out agents with fewer calls than this.")
    ] = 10,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most agents.")] = 50,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the agents whose calls were counted without their Workers' reports.

    The highest shares come first. Calls of the last minute are left out.
    """
    request = SilentAgentsRequest(hours=hours, at_least=at_least, limit=limit)
    found = bus.run(_silent(bus.nats_url_of(data_dir), request))
    if as_json:
        output.print_json(found)
        return
    if found.agents:
        output.print_table(
            ("user", "agent", "calls", "silent", "share"),
            [
                (a.user_id, a.agent_id, a.invocations, a.silent, _share(a.silent, a.invocations))
                for a in found.agents
            ],
            numbers=("calls", "silent", "share"),
        )
    share = _share(found.silent, found.invocations)
    output.say(f"{found.silent} of {found.invocations} calls were not reported ({share})")


async def _silent(url: str, request: SilentAgentsRequest) -> SilentAgentsReply:
    async with bus.connected(url) as client:
        return await bus.ask(
            client, subjects.RPC_SILENT_AGENTS, request, SilentAgentsReply, timeout_s=_TIMEOUT_S
        )


def _share(silent: int, calls: int) -> str:
    return f"{100 * silent / max(calls, 1):.1f} %"


async def _rebuild(
    url: str, request: RebuildRequest, show: Callable[[RebuildProgress], None]
) -> RebuildProgress:
    async with bus.connected(url) as client:
        return await request_rebuild(client, request, show)


def _show(result: RebuildProgress) -> None:
    if result.differences:
        output.print_table(
            ("user", "period", "runtime", "counter", "live", "rebuilt"),
            [row for difference in result.differences for row in _rows(difference)],
            numbers=("live", "rebuilt"),
        )
    count = len(result.differences)
    found = f"rows that differ: {count}" if count else "no difference"
    swapped = "the rebuilt usage is in force" if result.swapped else "nothing was changed"
    output.say(f"{result.processed} messages replayed: {found}; {swapped}")


def _rows(difference: Difference) -> list[tuple[object, ...]]:
    """One line per counter that differs."""
    where = (difference.user_id, difference.period_key, difference.runtime_provider)
    live, rebuilt = (
        {name: getattr(side, name) for name in _COUNTERS} if side else dict[str, int]()
        for side in (difference.live, difference.rebuilt)
    )
    return [
        (*where, name, live.get(name, "no row"), rebuilt.get(name, "no row"))
        for name in _COUNTERS
        if live.get(name) != rebuilt.get(name)
    ]
