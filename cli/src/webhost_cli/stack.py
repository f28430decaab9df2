"""`webhost up` and `webhost status`: the local stack."""

from typing import Annotated

import typer
from webhost_local.data_dir import DEFAULT, DataDir

from webhost_cli import output
from webhost_cli.options import DataDirOption, JsonOption

DEFAULT_PORT = 8787


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(status)


def up(
    data_dir: DataDirOption = DEFAULT,
    port: Annotated[int, typer.Option(help="Port of the public origin.")] = DEFAULT_PORT,
    gateways: Annotated[int, typer.Option(min=1, max=9, help="Gateway replicas.")] = 1,
) -> None:
    """Run the whole stack on this machine until Ctrl-C."""
    from webhost_local import stack

    stack.up(data_dir, port=port, gateways=gateways)


def status(data_dir: DataDirOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Show what is running, and where. Exits with 1 if nothing is."""
    from webhost_local import state

    running = state.read(DataDir.at(data_dir))
    if as_json:
        output.print_json(running)
        return
    output.print_fields([("origin", running.origin)])
    output.print_table(
        ("process", "pid", "url"),
        [(process.name, process.pid, process.url) for process in running.processes],
        numbers=("pid",),
    )
