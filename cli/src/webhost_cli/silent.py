"""`webhost billing silent`: whose Workers do not report."""

from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import SilentAgentsReply, SilentAgentsRequest

from webhost_cli import bus, output
from webhost_cli.options import BusOption, JsonOption

_TIMEOUT_S = 20.0


def silent(
    hours: Annotated[int, typer.Option(min=1, max=168, help="How many hours to look back.")] = 24,
    at_least: Annotated[
        int, typer.Option(min=1, help="Leave out agents with fewer calls than this.")
    ] = 10,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 50,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operators: list the agents whose calls were counted without their Workers' reports.

    The highest shares come first. Calls of the last minute are left out.
    """
    request = SilentAgentsRequest(hours=hours, at_least=at_least, limit=limit)
    found = bus.request(
        data_dir,
        subjects.RPC_SILENT_AGENTS,
        request,
        SilentAgentsReply,
        timeout_s=_TIMEOUT_S,
        reads=True,
    )
    if as_json:
        output.print_json(found)
        return
    if found.agents:
        output.print_table(
            ("user", "agent", "calls", "silent", "share"),
            [
                (a.user_id, a.agent_id, a.invocations, a.silent, _share(a.silent, a.invocations))
                for a in found.agents
            ],
            numbers=("calls", "silent", "share"),
        )
    share = _share(found.silent, found.invocations)
    output.say(f"{found.silent} of {found.invocations} calls were not reported ({share})")
    if unlisted := found.silent - sum(agent.silent for agent in found.agents):
        output.say(
            f"{unlisted} of them are of agents that are not listed: with fewer than {at_least}"
            " calls, or beyond --limit"
        )


def _share(silent: int, calls: int) -> str:
    return f"{100 * silent / max(calls, 1):.1f} %"
