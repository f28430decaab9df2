"""`webhost keys …`: API keys, for programs; and the platform's own, for operators."""

import time
from typing import Annotated

import typer

from webhost_cli import output, platform_keys, telemetry_keys
from webhost_cli.client import Api, Json
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.lookup import agent_id
from webhost_cli.options import CursorOption, JsonOption, LimitOption

_DAY_S = 24 * 3600

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, `key_…`.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="keys",
        help="API keys, for programs; for operators, the platform's.",
        no_args_is_help=True,
    )
    group.command("list")(with_api(list_keys))
    group.command()(with_api(create))
    group.command()(with_api(rotate))
    group.command()(with_api(revoke))
    group.command("rotate-platform")(platform_keys.rotate_platform)
    group.command("revoke-telemetry")(telemetry_keys.revoke_telemetry)
    app.add_typer(group)


def list_keys(
    api: Api, limit: LimitOption = 25, cursor: CursorOption = None, as_json: JsonOption = False
) -> None:
    """List your API keys, newest first, without the keys themselves."""
    answer = api.get("/v1/keys", limit=limit, cursor=cursor)
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("id", "name", "scopes", "agents", "limit", "expires", "created"),
        [
            (
                key["id"],
                key["name"],
                ", ".join(key["scopes"]),
                ", ".join(key.get("agentIds", [])) or "all",
                _limit(key),
                output.when(key.get("expiresAtMs")),
                output.when(key["createdAtMs"]),
            )
            for key in answer["keys"]
        ],
        folds="agents",
    )
    output.print_more(answer)


def create(
    api: Api,
    name: str,
    scope: Annotated[
        list[str],
        typer.Option(help="invoke, read, deploy, secrets or admin (all); may be repeated."),
    ],
    agent: Annotated[
        list[str] | None,
        typer.Option(help="Only for this agent, by id or name; may be repeated."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, help="The key expires after this many days.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=0, help="The most calls of the key in each --per.")
    ] = None,
    per: Annotated[str | None, typer.Option(help="day or month, in UTC.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, and print it: it is not shown again."""
    if (requests is None) != (per is None):
        raise CommandError("--requests and --per go together", ExitCode.USAGE)
    body: Json = {"name": name, "scopes": scope}
    if agent:
        body["agentIds"] = [agent_id(api, each) for each in agent]
    if days is not None:
        body["expiresAtMs"] = round((time.time() + days * _DAY_S) * 1000)
    if requests is not None:
        body["limits"] = {"requests": requests, "period": per}
    _show(api.start("/v1/keys", body), as_json)


def rotate(
    api: Api,
    key: KeyArgument,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, help="Seconds for which the key of until now works on; a day if unset."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret, and print it: it is not shown again."""
    body = {} if overlap is None else {"overlapSeconds": overlap}
    _show(api.start(f"/v1/keys/{key}/rotate", body), as_json)


def revoke(api: Api, key: KeyArgument, as_json: JsonOption = False) -> None:
    """End a key, for good."""
    api.delete(f"/v1/keys/{key}")
    if as_json:
        output.print_json({"revoked": key})
    else:
        output.say(f"revoked {key}")


def _show(answer: Json, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
        return
    key = answer["key"]
    output.say(answer["token"])
    output.aside(f"{key['name']} ({key['id']}); keep it safe: it is not shown again")
    if (until_ms := key.get("previousExpiresAtMs")) is not None:
        output.aside(f"the key of until now works until {output.when(until_ms)}")


def _limit(key: Json) -> str | None:
    limits = key.get("limits")
    return limits and f"{limits['requests']:,} a {limits['period']}"
