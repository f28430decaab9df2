"""`webhost invoke`"""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from httpx_sse import ServerSentEvent
from webhost_contracts.errors import ErrorBody

from webhost_cli import output
from webhost_cli.client import Api
from webhost_cli.connection import with_api
from webhost_cli.errors import ApiError, CommandError, ExitCode
from webhost_cli.lookup import agent_id
from webhost_cli.options import AgentArgument, JsonOption


def register(app: typer.Typer) -> None:
    app.command()(with_api(invoke))


def invoke(
    api: Api,
    agent: AgentArgument,
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer as it comes.")] = False,
    session: Annotated[str | None, typer.Option(help="Continue this session.")] = None,
    trace_id: Annotated[str | None, typer.Option(help="An id for correlation.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Repeat the command with this key, and the agent still runs once."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Call an agent and print its answer. With --stream --json: one event per line."""
    said = sys.stdin.read() if prompt == "-" else prompt
    body: dict[str, Any] = {"input": {"prompt": said}}
    body |= {k: v for k, v in (("sessionId", session), ("traceId", trace_id)) if v is not None}
    path = f"/v1/invoke/{agent_id(api, agent)}"
    if stream:
        _stream(api.stream(f"{path}/stream", body, key=idempotency_key), as_json)
        return
    answer = api.post(path, body, key=idempotency_key)
    if as_json:
        output.print_json(answer)
        return
    output.say(answer["output"]["text"])
    _aside(answer["sessionId"], answer["usage"])


def _stream(events: Iterator[ServerSentEvent], as_json: bool) -> None:
    session = ""
    usage: dict[str, Any] = {}
    ended = False
    for event in events:
        data = json.loads(event.data)
        if as_json:
            output.say(json.dumps({"id": event.id or None, "event": event.event, "data": data}))
        elif event.event == "delta":
            output.say(data["text"], ends_line=False)
        match event.event:
            case "meta":
                session = data["sessionId"]
            case "usage":
                usage = data
            case "done":
                ended = True
            case "error":
                if not as_json:
                    output.say()
                raise ApiError(msgspec.convert(data["error"], ErrorBody))
            case _:
                pass
    if not ended:
        raise CommandError("the stream was cut before its end", ExitCode.UNAVAILABLE)
    if not as_json:
        output.say()
        _aside(session, usage)


def _aside(session: str, usage: dict[str, Any]) -> None:
    used = ", ".join(f"{name} {value}" for name, value in usage.items())
    output.aside(f"session {session}  {used}".rstrip())
