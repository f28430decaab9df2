"""`webhost keys revoke-telemetry`, for operators."""

import asyncio
import getpass
from typing import Annotated

import typer
from nats.errors import NoRespondersError
from webhost_contracts import subjects
from webhost_contracts.rpc import RevokeTelemetryKeyReply, RevokeTelemetryKeyRequest

from webhost_cli import bus, output
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 5.0
_AGAIN_S = 0.2
_REVOKED_S = 120.0
"""A front whose agent is being deployed is given its next key behind the step under way."""
_AWAY_S = 15.0
"""A deployer that is starting again replies within this time."""


def revoke_telemetry(
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its id, `dep_…`.")],
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke the key that a deployment signs its usage reports with, and give it the next one."""
    reply = bus.run(_revoke(bus.nats_url_of(data_dir), deployment))
    if reply.refused is not None:
        raise CommandError(f"{deployment}: {reply.refused}", ExitCode.NOT_FOUND)
    if as_json:
        output.print_json(reply)
        return
    output.say(f"generation {reply.generation} of {deployment}'s telemetry key is revoked")
    if not reply.front_has_next:
        output.aside("its Worker has yet to be given the next one; the deployer goes on trying")


async def _revoke(url: str, deployment_id: str) -> RevokeTelemetryKeyReply:
    request = RevokeTelemetryKeyRequest(deployment_id=deployment_id, operator=getpass.getuser())
    now_s = asyncio.get_running_loop().time
    deadline = now_s() + _REVOKED_S
    away_until = now_s() + _AWAY_S
    is_away = False
    async with bus.connected(url) as client:
        while True:
            try:
                reply = await bus.ask(
                    client,
                    subjects.RPC_REVOKE_TELEMETRY_KEY,
                    request,
                    RevokeTelemetryKeyReply,
                    timeout_s=_TIMEOUT_S,
                )
            except (NoRespondersError, bus.NoReply) as error:
                # What may have been noted is not asked for anew: that would revoke the next key.
                is_noted = isinstance(error, bus.NoReply) and request.generation is None
                if is_noted or now_s() > away_until:
                    raise
                if not is_away:
                    is_away = True
                    output.aside("the deployer does not answer; it is asked again for a while")
                await asyncio.sleep(_AGAIN_S)
                continue
            away_until = now_s() + _AWAY_S
            if reply.refused is not None or reply.revoked:
                return reply
            request = RevokeTelemetryKeyRequest(
                deployment_id=deployment_id,
                operator=request.operator,
                generation=reply.generation,
            )
            if now_s() > deadline:
                raise CommandError(
                    "the deployer has noted it, and not done it yet; run this again to see",
                    ExitCode.UNAVAILABLE,
                )
            await asyncio.sleep(_AGAIN_S)
