"""`webhost agents …`"""

from typing import Annotated

import typer
from webhost_contracts.buckets import Bucket

from webhost_cli import output, series
from webhost_cli.calling import curl_line, invoke_url
from webhost_cli.client import Api, Json
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.lookup import agent_id, deployment_id, find_agent
from webhost_cli.options import AgentArgument, CursorOption, JsonOption, LimitOption

_KEYS_HELP = "A secret's name that the agent may be given; may be repeated."


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="agents", help="Create and manage agents.", no_args_is_help=True)
    group.command("list")(with_api(list_agents))
    group.command()(with_api(create))
    group.command()(with_api(get))
    group.command()(with_api(update))
    group.command()(with_api(disable))
    group.command()(with_api(enable))
    group.command()(with_api(delete))
    group.command()(with_api(metrics))
    app.add_typer(group)


def list_agents(
    api: Api,
    status: Annotated[str | None, typer.Option(help="Only agents in this status.")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Include deleted agents.")] = False,
    limit: LimitOption = 25,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your agents, newest first."""
    answer = api.get(
        "/v1/agents",
        status=status,
        includeDeleted="true" if deleted else None,
        limit=limit,
        cursor=cursor,
    )
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("id", "name", "status", "active deployment", "created"),
        [
            (a["id"], a["name"], a["status"], a.get("activeDeploymentId"), _created(a))
            for a in answer["agents"]
        ],
        folds="name",
    )
    output.print_more(answer)


def create(
    api: Api,
    name: str,
    description: Annotated[str | None, typer.Option(help="What the agent is for.")] = None,
    env_var_key: Annotated[list[str] | None, typer.Option(help=_KEYS_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Create an agent."""
    body = _known(name=name, description=description, envVarKeys=env_var_key)
    _show(api.start("/v1/agents", body), as_json)


def get(api: Api, agent: AgentArgument, as_json: JsonOption = False) -> None:
    """Show one agent, and how to call it."""
    found = find_agent(api, agent)
    url = invoke_url(api, found["id"])
    _show({"agent": found, "invokeUrl": url}, as_json)
    if found.get("activeDeploymentId") and not as_json:
        output.say(f"\n{curl_line(api, url)}")


def update(
    api: Api,
    agent: AgentArgument,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    description: Annotated[str | None, typer.Option(help="A new description.")] = None,
    env_var_key: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_KEYS_HELP} Replaces the present names; the values of others are deleted."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change an agent's name, description or the names of its secrets."""
    body = _known(name=name, description=description, envVarKeys=env_var_key)
    if not body:
        raise CommandError("nothing to change: give at least one option", ExitCode.USAGE)
    _show(api.patch(f"/v1/agents/{agent_id(api, agent)}", body), as_json)


def disable(api: Api, agent: AgentArgument, as_json: JsonOption = False) -> None:
    """Stop an agent from being invoked and deployed."""
    _show(api.post(f"/v1/agents/{agent_id(api, agent)}/disable"), as_json)


def enable(api: Api, agent: AgentArgument, as_json: JsonOption = False) -> None:
    """Enable a disabled agent again."""
    _show(api.post(f"/v1/agents/{agent_id(api, agent)}/enable"), as_json)


def delete(
    api: Api,
    agent: AgentArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an agent with its deployments and sessions. This cannot be undone."""
    found = find_agent(api, agent)
    if not yes:
        typer.confirm(f"Delete {found['name']} ({found['id']})?", abort=True, err=True)
    _show(api.delete(f"/v1/agents/{found['id']}"), as_json)


def metrics(
    api: Api,
    agent: AgentArgument,
    by: Annotated[Bucket, typer.Option(help="Bucket size.")] = "hour",
    since: series.FromOption = None,
    until: series.ToOption = None,
    deployment: Annotated[
        str | None, typer.Option(help="Only this deployment: its id or version.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Only this runtime provider.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an agent used, over time."""
    at = agent_id(api, agent)
    of = None if deployment is None else deployment_id(api, at, deployment)
    path = f"/v1/agents/{at}/metrics"
    series.show(api, path, by, since, until, as_json, deploymentId=of, runtimeProvider=runtime)


def _show(answer: Json, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
        return
    agent = answer["agent"]
    output.print_fields(
        [
            ("id", agent["id"]),
            ("name", agent["name"]),
            ("status", agent["status"]),
            ("description", agent.get("description")),
            ("secrets", ", ".join(agent["envVarKeys"]) or None),
            ("active deployment", agent.get("activeDeploymentId")),
            ("address", answer.get("invokeUrl")),
            ("created", _created(agent)),
            ("last deployed", output.when(agent.get("lastDeployedAtMs"))),
        ]
    )


def _created(agent: Json) -> str | None:
    return output.when(agent["createdAtMs"])


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
