"""`webhost audit`"""

import json
from typing import Annotated

import typer

from webhost_cli import output
from webhost_cli.client import Api
from webhost_cli.connection import with_api
from webhost_cli.lookup import agent_id
from webhost_cli.options import CursorOption, JsonOption, LimitOption


def register(app: typer.Typer) -> None:
    app.command()(with_api(audit))


def audit(
    api: Api,
    agent: Annotated[str | None, typer.Option(help="Only this agent's: its id or name.")] = None,
    action: Annotated[str | None, typer.Option(help="Only these, as agent.created.")] = None,
    limit: LimitOption = 25,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was done, when, and by whom, newest first."""
    of_agent = None if agent is None else agent_id(api, agent)
    answer = api.get("/v1/audit", agentId=of_agent, action=action, limit=limit, cursor=cursor)
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("time", "action", "actor", "of", "details"),
        [
            (
                output.when(entry["atMs"]),
                entry["action"],
                entry["actor"],
                entry.get("deploymentId") or entry.get("agentId"),
                json.dumps(entry["details"], ensure_ascii=False) if entry["details"] else None,
            )
            for entry in answer["entries"]
        ],
    )
    output.print_more(answer)
