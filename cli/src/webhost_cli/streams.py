"""`webhost streams …`, for operators: projections, and facts that a stream lost."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Annotated

import typer
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from webhost_contracts import maintenance, wire
from webhost_contracts.maintenance import (
    ProjectionState,
    RepublishProgress,
    RepublishRequest,
)

from webhost_cli import bus, output, services
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption

SILENCE_S = 60.0
"""A service that is silent for this long counts as gone."""

EVENTS = "EVENTS"
OWN_FACTS = ".own-facts"

Found = dict[str, tuple[ProjectionState, ...] | None]
"""Each service's projections, None where it does not answer."""


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="streams",
        help="Operators: projections, and republishing lost facts.",
        no_args_is_help=True,
    )
    group.command()(status)
    group.command()(republish)
    group.command()(replay)
    app.add_typer(group)


def status(data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """Show every service's projections: where each stands, what is parked, what is wrong.

    Ends with 1 when one is halted.
    """

    async def work() -> Found:
        async with bus.connected(url) as client:
            return {
                service: await services.projections(client, service)
                for service in maintenance.SERVICES
            }

    url = bus.nats_url_of(data_dir)
    found = bus.run(work())
    if as_json:
        output.print_json({"services": found})
    else:
        _show(found)
    if halted := [
        state.name for states in found.values() for state in states or () if _halted(state)
    ]:
        raise CommandError(f"halted: {', '.join(halted)}; see docs/runbooks/restore.md")


def _show(found: Found) -> None:
    rows: list[tuple[object, ...]] = []
    for service, projections in found.items():
        if projections is None:
            rows.append((service, "", "", "", "does not answer"))
        for state in projections or ():
            place = (state.name, state.stream, state.sequence, state.parked)
            rows.append((*place, state.problem or "ok"))
    columns = ("projection", "stream", "sequence", "parked", "state")
    output.print_table(columns, rows, numbers=("sequence", "parked"))


def replay(
    projection: Annotated[str | None, typer.Argument(help="As `status` names it.")] = None,
    halted: Annotated[bool, typer.Option("--halted", help="All that are halted.")] = False,
    data_dir: BusOption = None,
) -> None:
    """Restart a projection from the beginning of its stream.

    Rows that follow from the stream alone are rebuilt; others stay, and facts already folded into
    them are skipped. Refused while facts are missing on EVENTS: `republish` first.
    """
    if (projection is None) is not halted:
        raise CommandError("give one projection, or --halted", ExitCode.USAGE)

    async def work() -> None:
        async with bus.connected(url) as client:
            states = await _states(client)
            names = [projection] if projection else _in_order(filter(_halted, states))
            _require_own_facts(names, states)
            for name in names:
                await services.replay(client, name)
                output.say(f"{name} restarts from the beginning of its stream")
            if not names:
                output.say("nothing to replay: nothing is halted")

    url = bus.nats_url_of(data_dir)
    bus.run(work())


def _halted(state: ProjectionState) -> bool:
    return (state.problem or "").startswith("halted")


def _is_own_facts(name: str) -> bool:
    return name.endswith(OWN_FACTS)


async def _states(client: Client) -> list[ProjectionState]:
    """Return every projection. Raises CommandError where an owner of facts does not answer."""
    states: list[ProjectionState] = []
    for service in maintenance.SERVICES:
        found = await services.projections(client, service)
        if found is None and service in maintenance.REPUBLISHERS:
            raise CommandError(
                f"{service} does not answer: facts of its may be missing on {EVENTS}",
                ExitCode.UNAVAILABLE,
            )
        states += found or ()
    return states


def _in_order(states: Iterable[ProjectionState]) -> list[str]:
    """Name them, own facts first: where those are refused, nobody else reads what is left."""
    names = [state.name for state in states]
    return sorted(names, key=lambda name: not _is_own_facts(name))


def _require_own_facts(names: Sequence[str], states: Sequence[ProjectionState]) -> None:
    """Raise CommandError where one of EVENTS is named, but not the own facts that are halted."""
    reads_events = any(
        state.name in names and state.stream == EVENTS and not _is_own_facts(state.name)
        for state in states
    )
    for state in states:
        left_out = _is_own_facts(state.name) and _halted(state) and state.name not in names
        if reads_events and left_out:
            raise CommandError(f"{state.name} is halted, and comes first; or use --halted")


def republish(
    stream: Annotated[str, typer.Option(help="Which stream has lost facts.")] = EVENTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is missing.")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Empty the stream first: the databases hold it all.")
    ] = False,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Republish the facts that a stream lost, from the services' own databases."""
    if stream != EVENTS:
        raise CommandError(
            f"only {EVENTS} can be republished: COMMANDS are resent automatically, and billing's"
            " tables keep what USAGE held; a replay leaves them as they are",
            ExitCode.USAGE,
        )
    if purge and dry_run:
        raise CommandError("--purge cannot be combined with --dry-run", ExitCode.USAGE)

    async def work() -> dict[str, RepublishProgress]:
        found: dict[str, RepublishProgress] = {}
        async with bus.connected(url) as client:
            if purge:
                with suppress(NotFoundError):  # the services refuse then, and say why
                    await client.jetstream().purge_stream(EVENTS)
            for service in maintenance.REPUBLISHERS:
                async for progress in _republish(client, service, dry_run):
                    found[service] = progress
                    spinner.update(_line(service, progress))
        return found

    url = bus.nats_url_of(data_dir)
    with output.errors().status("comparing") as spinner:
        found = bus.run(work())
    if as_json:
        output.print_json({"stream": stream, "dryRun": dry_run, "services": found})
        return
    for service, progress in found.items():
        output.say(_line(service, progress))
    if not dry_run and any(progress.published for progress in found.values()):
        output.say("to restart halted projections: webhost streams replay --halted")


def _line(service: str, progress: RepublishProgress) -> str:
    return (
        f"{service}: {progress.held} on the stream, {progress.missing} missing, "
        f"{progress.published} republished"
    )


async def _republish(
    client: Client, service: str, dry_run: bool
) -> AsyncIterator[RepublishProgress]:
    inbox = client.new_inbox()
    replies = await client.subscribe(inbox)
    subject = maintenance.subject(service, maintenance.REPUBLISH)
    request = RepublishRequest(dry_run=dry_run)
    await client.publish(subject, wire.encode(request), reply=inbox)
    done = False
    while not done:
        try:
            async with asyncio.timeout(SILENCE_S):
                reply = await replies.next_msg(timeout=SILENCE_S)
        except TimeoutError as error:
            raise CommandError(
                f"{service} has stopped responding; you may repeat the command",
                ExitCode.UNAVAILABLE,
            ) from error
        if reply.headers and reply.headers.get("Status") == "503":
            raise CommandError(f"{service} is not running", ExitCode.UNAVAILABLE)
        progress = wire.decode(reply.data, RepublishProgress)
        if progress.refused is not None:
            raise CommandError(f"{service} refused: {progress.refused}")
        yield progress
        done = progress.done
