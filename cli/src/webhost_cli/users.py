"""`webhost users …`, for operators."""

import getpass
from typing import Annotated

import typer
from webhost_contracts import subjects, wire
from webhost_contracts.rpc import SetTierReply, SetTierRequest

from webhost_cli import bus, output
from webhost_cli.errors import CommandError
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 5.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="users", help="Operators: users.", no_args_is_help=True)
    group.command()(set_tier)
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Operators: users."""


def set_tier(
    user: Annotated[str, typer.Argument(metavar="USER_ID", help="As `webhost me` shows it.")],
    tier: Annotated[str, typer.Argument(help="free, starter, pro or enterprise.")],
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a user on another tier."""
    request = SetTierRequest(user_id=user, tier=tier, operator=getpass.getuser())
    answer = bus.run(_set_tier(bus.nats_url_of(data_dir), request))
    if answer.refused is not None:
        raise CommandError(f"refused: {answer.refused}")
    if as_json:
        output.print_json(answer)
    else:
        output.say(f"{user} is on {answer.tier}")


async def _set_tier(url: str, request: SetTierRequest) -> SetTierReply:
    async with bus.connected(url) as client:
        reply = await client.request(
            subjects.RPC_SET_TIER, wire.encode(request), timeout=_TIMEOUT_S
        )
        return wire.decode(reply.data, SetTierReply)
