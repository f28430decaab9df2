"""`webhost billing …`: the invoice is for users, the rest for operators; tiers: `subscriptions`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from webhost_contracts.usage_rpc import Counters, Difference, RebuildProgress, RebuildRequest

from webhost_cli import bus, output, progress, subscriptions, verification
from webhost_cli import export as exporting
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError
from webhost_cli.export import Exported, Format, Writer
from webhost_cli.invoice import invoice
from webhost_cli.options import BusOption, JsonOption
from webhost_cli.rebuild import rebuild as request_rebuild
from webhost_cli.silent import silent

_COUNTERS = Counters.__struct_fields__
_HELP = (
    "Tiers, what you pay for and what usage comes to; for operators: rebuilds, seals,"
    " subscriptions."
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="billing", help=_HELP, no_args_is_help=True)
    subscriptions.add_to(group)
    group.command()(with_api(invoice))
    group.command()(rebuild)
    group.command()(verification.verify)
    group.command()(verification.late)
    group.command()(silent)
    group.command()(export)
    app.add_typer(group)


def rebuild(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and change nothing.")] = False,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="This user only.")] = None,
    period: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="This period only.")] = None,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operators: rebuild usage from the event stream, and show what was different.

    Ctrl-C ends this command alone: billing goes on, and puts the result in force.
    """
    request = RebuildRequest(dry_run=dry_run, user_id=user, period_key=period)
    url = bus.nats_url_of(data_dir)
    try:
        with progress.shown("replaying") as show:
            result = bus.run(_rebuild(url, request, show))
    except KeyboardInterrupt:
        end = "changes nothing" if dry_run else "puts the result in force"
        output.aside(f"no longer waiting; billing goes on with the rebuild, and {end}", style=None)
        raise
    if as_json:
        output.print_json(result)
    else:
        _show(result)


def export(
    period: Annotated[str, typer.Option(metavar="YYYY-MM", help="The period to export.")],
    form: Annotated[
        Format,
        typer.Option("--format", help="One line for each entry, or a CloudEvents JSON batch."),
    ] = Format.CSV,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; it appears when it is whole. Else standard output."),
    ] = None,
    data_dir: BusOption = None,
) -> None:
    """Operators: export a period's settled usage, with corrections as entries of their own.

    Ends with 1 if the entries do not come to what usage says, as after a rebuild that changed it.
    """
    url = bus.nats_url_of(data_dir)
    with exporting.destination(out) as file, progress.shown("reading") as show:
        exported = bus.run(_export(url, period, exporting.writer_of(form, file), show))
    conclude(period, exported)


def conclude(period: str, exported: Exported) -> None:
    """Say what was exported. Raises CommandError where that is not what usage says."""
    cost = output.dollars(exported.counters.cost_picodollars)
    waiting = f"; not settled yet: {exported.waiting}" if exported.waiting else ""
    output.aside(
        f"{period}: entries: {exported.entries}, requests: {exported.counters.requests},"
        f" cost: {cost} USD{waiting}"
    )
    differ = [
        f"{name} {getattr(exported.counters, name)} instead of {getattr(exported.settled, name)}"
        for name in _COUNTERS
        if getattr(exported.counters, name) != getattr(exported.settled, name)
    ]
    if differ:
        raise CommandError(
            f"all of this was written, and does not come to what usage says: {', '.join(differ)}."
            " A rebuild that changed usage states nothing in the feed; else rows of usage are"
            " damaged: `webhost billing verify`, then `webhost billing rebuild --dry-run`; see"
            " docs/runbooks/usage-feed.md"
        )


async def _export(url: str, period: str, writer: Writer, show: progress.Show) -> Exported:
    async with bus.connected(url) as client:
        return await exporting.export(client, period, writer, show)


async def _rebuild(url: str, request: RebuildRequest, show: progress.Show) -> RebuildProgress:
    async with bus.connected(url) as client:
        return await request_rebuild(client, request, lambda line: show(line.processed, line.total))


def _show(result: RebuildProgress) -> None:
    if result.resumed:
        output.say(f"went on from an interrupted rebuild of {result.resumed} messages")
    for rows, sides in (
        (result.sealed, ("sealed", "stream")),
        (result.differences, ("live", "rebuilt")),
    ):
        if rows:
            output.print_table(
                ("user", "period", "runtime", "counter", *sides),
                [row for difference in rows for row in _rows(difference)],
                numbers=sides,
            )
    if result.sealed:
        output.say(f"sealed rows that the stream does not come to: {len(result.sealed)}; they stay")
    if result.left_out:
        output.say(f"{result.left_out} more rows that differ are not listed")
    count = len(result.differences)
    if not (result.processed or count or result.left_out):
        output.say("0 messages replayed: the stream has no usage to rebuild from")
        return
    found = f"rows that differ: {count}" if count else "no difference"
    swapped = "the rebuilt usage is in force" if result.swapped else "nothing was changed"
    waited = f"live usage waited for {result.held_back_ms} ms"
    output.say(f"{result.processed} messages replayed: {found}; {swapped}; {waited}")


def _time(difference: Difference) -> str:
    """The period; of a row of the series, its bucket and of which deployment it is."""
    if difference.start_ms is None:
        return difference.period_key
    start = datetime.fromtimestamp(difference.start_ms / 1000, UTC)
    return f"{difference.bucket} {start:%Y-%m-%dT%H:%MZ} {difference.deployment_id}"


def _rows(difference: Difference) -> list[tuple[object, ...]]:
    """One line per counter that differs."""
    where = (difference.user_id, _time(difference), difference.runtime_provider)
    live, rebuilt = (
        {name: getattr(side, name) for name in _COUNTERS} if side else dict[str, int]()
        for side in (difference.live, difference.rebuilt)
    )
    return [
        (*where, name, live.get(name, "no row"), rebuilt.get(name, "no row"))
        for name in _COUNTERS
        if live.get(name) != rebuilt.get(name)
    ]
