"""`webhost cloudflare …`, for operators."""

from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.rpc import (
    PlacementReply,
    PlacementRequest,
    ReconcileReply,
    ReconcileRequest,
)

from webhost_cli import bus, output
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 300.0
"""A removal may wait for Cloudflare's limit on calls."""
_REPLY_S = 10.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="cloudflare",
        help="Operators: what this installation has at Cloudflare.",
        no_args_is_help=True,
    )
    group.command()(reconcile)
    group.command()(placement)
    app.add_typer(group)


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


def placement(data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """Show where deployments are: in the account, or in a dispatch namespace.

    Agents whose newest deployment is not where new ones go are listed: deploying them again moves
    them.
    """
    found = bus.request(
        data_dir,
        subjects.RPC_PLACEMENT,
        PlacementRequest(),
        PlacementReply,
        timeout_s=_REPLY_S,
        reads=True,
    )
    if as_json:
        output.print_json(found)
        return
    columns = ("place", "deployments", "agents")
    rows = [(_named(it.namespace), it.deployments, it.agents) for it in found.places]
    output.print_table(columns, rows, numbers=columns[1:])
    if found.elsewhere:
        output.print_table(
            ("agent to be moved", "user"), [(it.agent_id, it.user_id) for it in found.elsewhere]
        )
    count = len(found.elsewhere) + found.left_out
    output.say(f"new deployments go to {_named(found.namespace)}; agents to be moved: {count}")


def _named(namespace: str | None) -> str:
    return "the account" if namespace is None else f"namespace {namespace}"
