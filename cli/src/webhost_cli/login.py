"""`webhost login` and `webhost me`."""

import os
from typing import Annotated

import typer

from webhost_cli import credentials, oidc, output
from webhost_cli.client import Api
from webhost_cli.connection import origin_of, with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import JsonOption, StackOption, UrlOption, data_dir_of

CLIENT_ID = "webhost-cli"

_FIGURES = (
    ("requests a month", "requests"),
    ("tokens a month", "tokens"),
    ("compute ms a month", "computeMs"),
    ("agents", "agents"),
    ("agents ever created", "agentsCreated"),
    ("deploys an hour", "deploysPerHour"),
    ("deploys a day", "deploysPerDay"),
    ("changes a day", "changesPerDay"),
    ("calls at once", "concurrency"),
    ("processor ms a call", "cpuMs"),
    ("requests an agent makes in a call", "subrequests"),
    ("calls a minute", "requestsPerMinute"),
    ("days of telemetry", "telemetryDays"),
    ("days of logs", "logDays"),
)


def register(app: typer.Typer) -> None:
    app.command()(login)
    app.command()(with_api(me))


def login(
    url: UrlOption = None,
    data_dir: StackOption = None,
    issuer: Annotated[
        str | None, typer.Option(help="The OIDC issuer (or WEBHOST_ISSUER); a local stack's own.")
    ] = None,
    client_id: Annotated[str, typer.Option(help="The client's id at the issuer.")] = CLIENT_ID,
    subject: Annotated[
        str | None, typer.Option(help="Sign in as SUBJECT at a development issuer, no browser.")
    ] = None,
) -> None:
    """Sign in, and store the token for later commands."""
    origin = origin_of(url, data_dir)
    issuer = issuer or os.environ.get("WEBHOST_ISSUER") or _local_issuer(origin, data_dir)
    if subject is not None:
        tokens = oidc.sign_in_as(issuer, client_id, subject)
    else:
        tokens = oidc.sign_in_with_browser(issuer, client_id, _show)
    with Api(origin, tokens.access_token) as api:
        user = api.get("/v1/me")["user"]
    entry = credentials.Login(tokens.access_token, tokens.expires_at_s, issuer)
    file = credentials.store(origin, entry)
    output.say(f"signed in at {origin} as {user['subject']} ({user['id']})")
    output.aside(f"stored in {file}")
    if os.environ.get("WEBHOST_TOKEN"):
        note = "WEBHOST_TOKEN is set and goes before this login: unset it to be this user"
        output.aside(note, style=None)


def me(api: Api, as_json: JsonOption = False) -> None:
    """Show who is signed in, and what the plan allows."""
    answer = api.get("/v1/me")
    if as_json:
        output.print_json(answer)
        return
    user = answer["user"]
    shown = [(name, user.get(name)) for name in ("id", "subject", "email", "name", "tier")]
    output.print_fields([*shown, ("since", output.when(user["createdAtMs"]))])
    output.say()
    output.print_table(
        ("the plan allows", ""),
        [(name, _allowed(user["entitlements"][field])) for name, field in _FIGURES],
        numbers=("",),
    )


def _allowed(figure: int | None) -> str:
    return "unlimited" if figure is None else f"{figure:,}"


def _show(address: str) -> None:
    output.aside(f"Sign in at\n  {address}", style=None)


def _local_issuer(origin: str, data_dir: StackOption) -> str:
    from webhost_local import state
    from webhost_local.data_dir import StackError

    chosen = data_dir_of(data_dir)
    try:
        running = state.read(chosen)
    except StackError:
        running = None
    if running is None or running.origin != origin:
        message = "the issuer is not known: set --issuer or WEBHOST_ISSUER"
        raise CommandError(message, ExitCode.USAGE)
    from webhost_local.issuer.identity import IssuerIdentity

    return IssuerIdentity.load_or_make(chosen).url
