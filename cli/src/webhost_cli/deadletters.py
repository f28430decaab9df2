"""`webhost deadletters …`, for operators: commands that no handler could handle, and events that no
projection could fold.

A command goes by its number, a parked event by its projection and message: `api.reactor/1042`.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer
from nats.aio.client import Client
from webhost_contracts import maintenance
from webhost_contracts.maintenance import ParkedEntry, ProjectionState

from webhost_cli import bus, dead_letter_stream, output, parked, services
from webhost_cli.dead_letter_stream import DeadLetter
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="deadletters",
        help="Operators: commands that no handler could handle, events that no fold could use.",
        no_args_is_help=True,
    )
    group.command("list")(list_all)
    group.command()(show)
    group.command()(replay)
    app.add_typer(group)


def list_all(data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """List dead-lettered commands, then parked events, each oldest first."""

    async def work() -> tuple[list[DeadLetter], list[ParkedEntry], list[str]]:
        async with bus.connected(url) as client:
            states, silent = await _projections(client)
            events = [event async for event in parked.listed(client, states)]
            return await _all(client), events, silent

    url = bus.nats_url_of(data_dir)
    letters, events, silent = bus.run(work())
    if as_json:
        named = [{"id": _id(event), **output.whole(event)} for event in events]
        output.print_json({"deadLetters": letters, "parked": named, "silent": silent})
        return
    for service in silent:
        output.aside(f"{service} does not answer: its parked events are not listed", style=None)
    rows = [(str(one.seq), one.dead_lettered_at, one.subject, one.reason) for one in letters]
    rows += [
        (
            _id(event),
            datetime.fromtimestamp(event.parked_at_ms / 1000, UTC),
            event.subject,
            event.reason,
        )
        for event in events
    ]
    if not rows:
        output.say("no dead letters, no parked events")
        return
    output.print_table(
        ("id", "since", "subject", "reason"),
        [(id_, f"{at.astimezone():%Y-%m-%d %H:%M:%S}", *rest) for id_, at, *rest in rows],
    )


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    data_dir: BusOption = None,
) -> None:
    """Print one as JSON: where it was, what is wrong with it, its body."""
    projection, _, number = name.rpartition("/")
    if not number.isdigit():
        raise CommandError(f"'{name}' is not an id; `list` shows the ids", ExitCode.USAGE)

    async def work() -> DeadLetter | tuple[ParkedEntry, ...]:
        async with bus.connected(url) as client:
            if not projection:
                return await dead_letter_stream.one(client.jetstream(), int(number))
            return await parked.shown(client, projection, int(number))

    url = bus.nats_url_of(data_dir)
    output.print_json(bus.run(work()))


def replay(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="A command's number, or a projection: all of its events."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All commands and events.")] = False,
    data_dir: BusOption = None,
) -> None:
    """Replay commands to their handlers, and events to their folds.

    Exits with 1 when some events still cannot be folded.
    """
    if (name is None) is not every:
        raise CommandError("give an id, or --all", ExitCode.USAGE)

    async def work() -> int:
        async with bus.connected(url) as client:
            if name is None:
                states, _ = await _projections(client)
                letters, parking = await _all(client), [s.name for s in states if s.parked]
                if not letters and not parking:
                    output.say("nothing to replay")
                await _replay_commands(client, letters)
                return await _replay_events(client, parking)
            if name.isdigit():
                letter = await dead_letter_stream.one(client.jetstream(), int(name))
                await _replay_commands(client, [letter])
                return 0
            return await _replay_events(client, [name.partition("/")[0]])

    url = bus.nats_url_of(data_dir)
    if left := bus.run(work()):
        raise CommandError(f"{left} still parked; `webhost deadletters list` says why")


def _id(event: ParkedEntry) -> str:
    return f"{event.projection}/{event.sequence}"


async def _replay_commands(client: Client, letters: list[DeadLetter]) -> None:
    for letter in letters:
        await dead_letter_stream.replay(client.jetstream(), letter)
        output.say(f"{letter.seq} replayed on {letter.subject}")


async def _replay_events(client: Client, projections: list[str]) -> int:
    left = 0
    for projection in projections:
        reply = await parked.replay(client, projection)
        output.say(f"{projection}: {reply.folded} folded, {reply.left} still parked")
        left += reply.left
    return left


async def _projections(client: Client) -> tuple[tuple[ProjectionState, ...], list[str]]:
    """Return every projection, and the services that do not answer."""
    found = {
        service: await services.projections(client, service) for service in maintenance.SERVICES
    }
    states = tuple(state for states in found.values() for state in states or ())
    return states, [service for service, states in found.items() if states is None]


async def _all(client: Client) -> list[DeadLetter]:
    return [letter async for letter in dead_letter_stream.every(client.jetstream())]
