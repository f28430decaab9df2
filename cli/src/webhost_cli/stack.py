"""`webhost up` and `webhost status`: the local stack."""

from typing import Annotated

import typer
from webhost_local.data_dir import CLUSTER, DEFAULT, DataDir

from webhost_cli import output
from webhost_cli.options import DataDirOption, JsonOption

DEFAULT_PORT = 8787


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(status)


def up(
    data_dir: DataDirOption = DEFAULT,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the public origin.")
    ] = DEFAULT_PORT,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="SERVICE=NUMBER,…",
            help="How many processes of a service to run, 1 to 9, as in `gateway=2,billing=2`: of"
            " api, gateway, deployer, telemetry-ingest and billing. One of what is not named.",
        ),
    ] = None,
    nats_nodes: Annotated[
        int | None,
        typer.Option(
            help="NATS servers: 1, or 3 for a cluster in which one may be away. What a data"
            " directory began with stays; a new one has 1.",
        ),
    ] = None,
) -> None:
    """Run the whole stack on this machine until Ctrl-C."""
    from webhost_local import replicas as counts
    from webhost_local import stack

    if nats_nodes not in (None, 1, CLUSTER):
        raise typer.BadParameter(f"{nats_nodes}: must be 1 or {CLUSTER}", param_hint="--nats-nodes")
    try:
        wanted = counts.one_of_each() if replicas is None else counts.parse(replicas)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--replicas") from error
    stack.up(data_dir, port=port, replicas=wanted, nats_nodes=nats_nodes)


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
