"""`webhost secrets …`: values come from a prompt, standard input or a file, and are never shown."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from dotenv.parser import parse_stream

from webhost_cli import output
from webhost_cli.client import Api, Json
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.lookup import agent_id
from webhost_cli.options import AgentArgument, JsonOption

LARGEST_BODY = 60_000
"""What one request may hold is 64 KiB."""

KeyArgument = Annotated[str, typer.Argument(help="The secret's name.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="secrets", help="Set an agent's secrets.", no_args_is_help=True)
    group.command("set")(with_api(set_secret))
    group.command("list")(with_api(list_secrets))
    group.command("rm")(with_api(remove))
    group.command("import")(with_api(import_file))
    app.add_typer(group)


def set_secret(
    api: Api, agent: AgentArgument, key: KeyArgument, as_json: JsonOption = False
) -> None:
    """Set a secret. Its value is asked for, or read from standard input."""
    found = agent_id(api, agent)
    _set(api, found, {key: _value_of(key)})
    _show(api, found, as_json)


def list_secrets(api: Api, agent: AgentArgument, as_json: JsonOption = False) -> None:
    """List an agent's secrets, and when each was set. Values cannot be read back."""
    _show(api, agent_id(api, agent), as_json)


def remove(api: Api, agent: AgentArgument, key: KeyArgument, as_json: JsonOption = False) -> None:
    """Delete a secret's value."""
    found = agent_id(api, agent)
    api.delete(f"/v1/agents/{found}/secrets/{key}")
    answer = _answer(api, found)
    names = [it["key"] for it in answer["secrets"]]
    if key not in names:
        message = f"{key} is no secret of {agent}, which has: {', '.join(names) or 'none'}"
        raise CommandError(message, ExitCode.NOT_FOUND)
    _print(answer, as_json)


def import_file(
    api: Api,
    agent: AgentArgument,
    file: Annotated[
        Path, typer.Argument(help="A .env file.", exists=True, dir_okay=False, readable=True)
    ],
    as_json: JsonOption = False,
) -> None:
    """Set all secrets that a .env file names. Each name must be one of the agent's."""
    values = read_dotenv(file)
    if not values:
        raise CommandError(f"{file} names no secret", ExitCode.USAGE)
    found = agent_id(api, agent)
    for part in in_requests(values):
        _set(api, found, part)
    _show(api, found, as_json)


def _set(api: Api, agent: str, values: Mapping[str, str]) -> None:
    api.start(f"/v1/agents/{agent}/secrets", {"secrets": values})


def _value_of(key: str) -> str:
    if sys.stdin.isatty():
        return typer.prompt(f"Value of {key}", hide_input=True, err=True)
    value = sys.stdin.read()
    return value.removesuffix("\n").removesuffix("\r")


def read_dotenv(file: Path) -> dict[str, str]:
    """Return the values by name. Raises CommandError, which holds none of them."""
    values: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8") as text:
            for binding in parse_stream(text):
                if binding.error or (binding.key is not None and binding.value is None):
                    message = f"{file}: line {binding.original.line} is not KEY=value"
                    raise CommandError(message, ExitCode.USAGE)
                if binding.key is not None and binding.value is not None:
                    values[binding.key] = binding.value
    except UnicodeDecodeError:
        # From None: the error would hold the values.
        raise CommandError(f"{file} is not UTF-8 text", ExitCode.USAGE) from None
    return values


def in_requests(values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the values in as few requests as hold them."""
    part: dict[str, str] = {}
    size = 0
    for key, value in values.items():
        own = len(msgspec.json.encode({key: value}))
        if part and size + own > LARGEST_BODY:
            yield part
            part, size = {}, 0
        part[key] = value
        size += own
    yield part


def _show(api: Api, agent: str, as_json: bool) -> None:
    _print(_answer(api, agent), as_json)


def _answer(api: Api, agent: str) -> Json:
    return api.get(f"/v1/agents/{agent}/secrets")


def _print(answer: Json, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
        return
    output.print_table(
        ("key", "set", "updated"),
        [
            (it["key"], "yes" if it["isSet"] else "no", output.when(it.get("updatedAtMs")))
            for it in answer["secrets"]
        ],
    )
