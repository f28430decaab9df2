"""`webhost cloudflare …`, for operators."""

from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.rpc import ReconcileReply, ReconcileRequest

from webhost_cli import bus, output
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 300.0
"""A removal may wait for Cloudflare's limit on calls."""


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="cloudflare",
        help="Operators: what this installation has at Cloudflare.",
        no_args_is_help=True,
    )
    group.command()(reconcile)
    # A group of a single command would lose its name.
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Operators: what this installation has at Cloudflare."""


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and change nothing.")] = False,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove this installation's scripts and routes that no deployment owns, and list them.

    Nothing of another installation or of the account's owner is touched. A deployment whose script
    is gone is listed too: deploy the agent again.
    """
    found = bus.run(_reconcile(bus.nats_url_of(data_dir), ReconcileRequest(dry_run=dry_run)))
    if found.refused is not None:
        raise CommandError(f"refused: {found.refused}")
    if as_json:
        output.print_json(found)
    else:
        _show(found)


async def _reconcile(url: str, request: ReconcileRequest) -> ReconcileReply:
    async with bus.connected(url) as client:
        try:
            return await bus.ask(
                client, subjects.RPC_RECONCILE, request, ReconcileReply, timeout_s=_TIMEOUT_S
            )
        except bus.NoReply as error:
            message = "the deployer has not responded; a dry run shows the current state"
            raise CommandError(message, ExitCode.UNAVAILABLE) from error


def _show(found: ReconcileReply) -> None:
    done = "removed" if found.removed else "to be removed"
    rows = [
        *(("script", name, done) for name in found.scripts),
        *(("route", pattern, done) for pattern in found.routes),
        *(("deployment", deployment_id, "its script is gone") for deployment_id in found.missing),
    ]
    if rows:
        output.print_table(("what", "which", "drift"), rows)
    if found.left_out:
        output.say(f"and {found.left_out} more")
    if not rows:
        output.say("no drift: all that this installation has at Cloudflare is as it should be")
