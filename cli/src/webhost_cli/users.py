"""`webhost users …`, for operators."""

import getpass
from pathlib import Path
from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.rpc import (
    AccountStatus,
    SetAccountStatusReply,
    SetAccountStatusRequest,
    SetTierReply,
    SetTierRequest,
)

from webhost_cli import bus, output
from webhost_cli.errors import CommandError
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 5.0

UserId = Annotated[str, typer.Argument(metavar="USER_ID", help="As `webhost me` shows it.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="users", help="Operators: users.", no_args_is_help=True)
    group.command()(set_tier)
    group.command()(disable)
    group.command()(enable)
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Operators: users."""


def set_tier(
    user: UserId,
    tier: Annotated[str, typer.Argument(help="free, starter, pro or enterprise.")],
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a user on another tier, or on a subscription's where that is higher."""
    request = SetTierRequest(user_id=user, tier=tier, operator=getpass.getuser())
    answer = bus.request(
        data_dir, subjects.RPC_SET_TIER, request, SetTierReply, timeout_s=_TIMEOUT_S
    )
    if answer.refused is not None:
        raise CommandError(f"refused: {answer.refused}")
    if as_json:
        output.print_json(answer)
    else:
        output.say(f"{user} is on {answer.tier}")
        if answer.tier != tier:
            output.aside(f"what a subscription gives is higher than {tier}, and holds", style=None)


def disable(
    user: UserId,
    reason: Annotated[str | None, typer.Option(help="Kept with the change.")] = None,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Disable an account: its calls and changes are refused (`account_disabled`). What it has
    stays, and it can still read, and delete what it has.
    """
    _set_status(user, "disabled", reason, data_dir, as_json)


def enable(user: UserId, data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """Accept an account's calls and changes again."""
    _set_status(user, "enabled", None, data_dir, as_json)


def _set_status(
    user: str, status: AccountStatus, reason: str | None, data_dir: Path | None, as_json: bool
) -> None:
    request = SetAccountStatusRequest(
        user_id=user, status=status, operator=getpass.getuser(), reason=reason
    )
    answer = bus.request(
        data_dir,
        subjects.RPC_SET_ACCOUNT_STATUS,
        request,
        SetAccountStatusReply,
        timeout_s=_TIMEOUT_S,
    )
    if answer.refused is not None:
        raise CommandError(f"refused: {answer.refused}")
    if as_json:
        output.print_json(answer)
    else:
        output.say(f"{user} is {answer.status}")
    if answer.waits:
        output.aside(
            "recorded, and not in force yet: billing could not publish it so far (its /readyz says"
            " why; see docs/runbooks/full-streams.md)",
            style="yellow",
        )
