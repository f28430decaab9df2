"""The event catalogue: every message type, with its fields and a golden example.

`python -m webhost_contracts.catalogue` prints docs/events.md.
"""

import inspect
import json
import sys
from importlib import resources

import msgspec

from webhost_contracts.commands import COMMAND_TYPES, Command
from webhost_contracts.events import EVENT_TYPES, Event

OWNERS = {
    "user": "api",
    "agent": "api",
    "deployment": "deployer",
    "teardown": "deployer",
    "account": "billing",
    "invocation": "gateway",
    "telemetry": "telemetry-ingest",
}


def example_of(type_name: str) -> bytes:
    """Return the golden example of this type. Raises FileNotFoundError where there is none."""
    folder = resources.files("webhost_contracts").joinpath("examples")
    return folder.joinpath(f"{type_name}.json").read_bytes()


def describe(kind: type[Event] | type[Command]) -> str:
    """Return one type's entry of the catalogue, in Markdown."""
    rows = "\n".join(
        f"| `{field.encode_name}` | `{_type_text(field)}` | {'yes' if field.required else 'no'} |"
        for field in msgspec.structs.fields(kind)
    )
    example = json.dumps(json.loads(example_of(kind.type_name())), indent=2, ensure_ascii=False)
    return (
        f"### `{kind.type_name()}`\n\n{inspect.getdoc(kind)}\n\n"
        f"| field | type | required |\n|---|---|---|\n{rows}\n\n```json\n{example}\n```\n"
    )


def catalogue() -> str:
    """Return the whole catalogue, in Markdown."""
    parts = ["# Events and commands\n\nGenerated from `libs/contracts`; `make docs` renews it.\n"]
    for kind, owner in OWNERS.items():
        entries = [describe(event) for event in EVENT_TYPES if event.kind() == kind]
        parts.append(f"## {kind}: stated by {owner}\n\n" + "\n".join(entries))
    parts.append("## Commands\n\n" + "\n".join(describe(command) for command in COMMAND_TYPES))
    return "\n".join(parts)


def _type_text(field: msgspec.structs.FieldInfo) -> str:
    kind = field.type
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    for prefix in ("typing.", "webhost_contracts.artifacts.", "webhost_contracts.errors."):
        text = text.replace(prefix, "")
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(catalogue())
