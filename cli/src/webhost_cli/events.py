"""`webhost events`"""

import json
import time
from typing import Annotated, Any

import typer
from httpx_sse import ServerSentEvent

from webhost_cli import output
from webhost_cli.client import Api
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.lookup import agent_id
from webhost_cli.options import AgentArgument, JsonOption

_AGAIN_S = 1.0
_PATIENCE_S = 60.0
_DELETED = "agent.deleted.v1"


def register(app: typer.Typer) -> None:
    app.command()(with_api(events))


def events(
    api: Api,
    agent: AgentArgument,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Begin behind this event; 0: all kept ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow an agent's events until it is deleted. With --json: one event per line."""
    path = f"/v1/agents/{agent_id(api, agent)}/events"
    last_id, well_at = after, time.monotonic()
    while True:
        began = time.monotonic()
        try:
            for event in api.watch(path, last_id):
                last_id = event.id or last_id
                _show(event, as_json)
                if event.event == _DELETED:
                    return
            well_at = time.monotonic()
        except CommandError as error:
            now = time.monotonic()
            if now - began > _AGAIN_S:
                well_at = now
            if error.exit_code is not ExitCode.UNAVAILABLE or now - well_at > _PATIENCE_S:
                raise
        time.sleep(_AGAIN_S)


def _show(event: ServerSentEvent, as_json: bool) -> None:
    data: dict[str, Any] = json.loads(event.data)
    if as_json:
        # A notice has no id: the one that is seen here is that of the event before it.
        id_ = None if "invocationId" in data else event.id
        output.say(json.dumps({"id": id_, "event": event.event, "data": data}))
    elif event.event == "reset":
        output.aside("some events are not there any more; these are the next ones")
    elif "atMs" in data:
        said = json.dumps(data["data"], ensure_ascii=False) if data["data"] else ""
        of = data.get("invocationId") or data.get("deploymentId") or data["agentId"]
        output.say(f"{output.when(data['atMs'])}  {event.event}  {of}  {said}".rstrip())
