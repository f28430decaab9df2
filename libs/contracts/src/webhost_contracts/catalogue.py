"""The event catalogue: every message type, with its fields and a golden example.

`python -m webhost_contracts.catalogue` prints docs/events.md.
"""

import inspect
import json
import re
import sys
from importlib import resources

import msgspec

from webhost_contracts import subjects, wire
from webhost_contracts.artifacts import Artifact
from webhost_contracts.commands import COMMAND_TYPES, Command
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import EVENT_TYPES, Envelope, Event
from webhost_contracts.events.base import by_name

OWNERS = {
    "user": "api",
    "agent": "api",
    "deployment": "deployer",
    "teardown": "deployer",
    "account": "billing",
    "invocation": "gateway",
    "telemetry": "telemetry-ingest",
}
ON_USAGE = {"invocation": subjects.GATEWAY, "telemetry": subjects.TELEMETRY_INGEST}
"""The kinds of facts that go to USAGE, in packets, and the producer in their subject."""

PARTS = (Artifact, DeploymentError)
"""What stands inside of several facts."""

_IN_PYTHON = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")


def example_of(type_name: str) -> bytes:
    """Return the golden example of this type. Raises FileNotFoundError where there is none."""
    folder = resources.files("webhost_contracts").joinpath("examples")
    return folder.joinpath(f"{type_name}.json").read_bytes()


def describe(kind: type[Event] | type[Command]) -> str:
    """Return one type's entry of the catalogue, in Markdown."""
    example = json.dumps(json.loads(example_of(kind.type_name())), indent=2, ensure_ascii=False)
    place = _place_of(kind) if issubclass(kind, Event) else ""
    return f"{_shape(kind.type_name(), kind)}{place}\n```json\n{example}\n```\n"


def catalogue() -> str:
    """Return the whole catalogue, in Markdown."""
    parts = ["# Events and commands\n\nGenerated from `libs/contracts`; `make docs` renews it.\n"]
    parts.append("## Around and inside of facts\n")
    parts += [_shape(kind.__name__, kind) for kind in (Envelope, *PARTS)]
    for kind, owner in OWNERS.items():
        entries = [describe(event) for event in EVENT_TYPES if event.kind() == kind]
        parts.append(f"## {kind}: stated by {owner}\n\n" + "\n".join(entries))
    parts.append(
        f"## Commands: on {subjects.COMMANDS}, `{_COMMANDS}`\n\n"
        + "\n".join(describe(command) for command in COMMAND_TYPES)
    )
    return "\n".join(parts)


_COMMANDS = subjects.command("deployer", "<verb>", "<agentId>")


def _shape(name: str, kind: type[msgspec.Struct]) -> str:
    """Return a heading, what the type means, and its fields, as they are called on the wire."""
    text = f"### `{name}`\n\n{_IN_PYTHON.sub(_on_the_wire, inspect.getdoc(kind) or '')}\n\n"
    rows = "\n".join(
        f"| `{field.encode_name}` | `{_type_text(field)}` | {'yes' if field.required else 'no'} |"
        for field in msgspec.structs.fields(kind)
    )
    if not rows:
        return text + "No fields of its own.\n"
    return f"{text}| field | type | required |\n|---|---|---|\n{rows}\n"


def _place_of(kind: type[Event]) -> str:
    """Return the stream and the subject that the fact is published on."""
    if (producer := ON_USAGE.get(kind.kind())) is not None:
        subject = subjects.usage_packets(0, producer).replace("0", "<partition>")
        return f"\nOn {subjects.USAGE}, in packets: `{subject}`\n"
    envelope = wire.decode(example_of(kind.type_name()), Envelope)
    event = envelope.event(by_name(kind))
    if event is None:
        raise ValueError(f"the example of {kind.type_name()} is of another type")
    subject = event.published_on("<userId>", "<aggregateId>")
    subject = subject.replace(getattr(event, "agent_id", "<agentId>"), "<agentId>")
    return f"\nOn {subjects.EVENTS}: `{subject}`\n"


def _on_the_wire(found: re.Match[str]) -> str:
    head, *rest = found[1].split("_")
    return f"`{head}{''.join(word.capitalize() for word in rest)}`"


def _type_text(field: msgspec.structs.FieldInfo) -> str:
    kind = field.type
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    for prefix in ("typing.", "webhost_contracts.artifacts.", "webhost_contracts.errors."):
        text = text.replace(prefix, "")
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(catalogue())
