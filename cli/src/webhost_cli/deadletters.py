"""`webhost deadletters …`, for operators."""

from typing import Annotated

import typer
from nats.aio.client import Client

from webhost_cli import bus, dead_letter_stream, output
from webhost_cli.dead_letter_stream import DeadLetter
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import JsonOption, StackOption


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="deadletters",
        help="Operators: commands that no handler could handle.",
        no_args_is_help=True,
    )
    group.command("list")(list_letters)
    group.command()(show)
    group.command()(replay)
    app.add_typer(group)


def list_letters(data_dir: StackOption = None, as_json: JsonOption = False) -> None:
    """List the dead letters, oldest first."""

    async def work() -> list[DeadLetter]:
        async with bus.connected(url) as client:
            return await _all(client)

    url = bus.nats_url_of(data_dir)
    letters = bus.run(work())
    if as_json:
        output.print_json({"deadLetters": letters})
        return
    output.print_table(
        ("seq", "since", "subject", "reason"),
        [
            (
                letter.seq,
                letter.dead_lettered_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
                letter.subject,
                letter.reason,
            )
            for letter in letters
        ],
    )


def show(seq: int, data_dir: StackOption = None) -> None:
    """Print one dead letter as JSON: where it was, why it died, its headers and body."""

    async def work() -> DeadLetter:
        async with bus.connected(url) as client:
            return await dead_letter_stream.one(client.jetstream(), seq)

    url = bus.nats_url_of(data_dir)
    output.print_json(bus.run(work()))


def replay(
    seq: Annotated[int | None, typer.Argument(help="Which one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    data_dir: StackOption = None,
) -> None:
    """Give dead letters to their handlers once more."""
    if (seq is None) is not every:
        raise CommandError("give one number, or --all", ExitCode.USAGE)

    async def work() -> None:
        async with bus.connected(url) as client:
            js = client.jetstream()
            chosen = await _all(client) if seq is None else [await dead_letter_stream.one(js, seq)]
            for letter in chosen:
                await dead_letter_stream.replay(js, letter)
                typer.echo(f"{letter.seq} replayed on {letter.subject}")

    url = bus.nats_url_of(data_dir)
    bus.run(work())


async def _all(client: Client) -> list[DeadLetter]:
    return [letter async for letter in dead_letter_stream.every(client.jetstream())]
