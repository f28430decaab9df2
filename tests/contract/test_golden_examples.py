"""Every message version ever published still decodes, field by field."""

import json
import re
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from webhost_contracts import wire
from webhost_contracts.catalogue import catalogue, example_of
from webhost_contracts.commands import COMMAND_TYPES, Command
from webhost_contracts.events import EVENT_TYPES, Envelope, Event
from webhost_contracts.events.base import by_name
from webhost_contracts.subjects import OWNERS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.type_name())
def test_an_event_decodes_and_encodes_to_the_same(kind: type[Event]) -> None:
    stored = example_of(kind.type_name())
    envelope = wire.decode(stored, Envelope)
    event = envelope.event(by_name(kind))
    assert isinstance(event, kind)
    again = msgspec.structs.replace(envelope, data=msgspec.Raw(wire.encode(event)))
    assert json.loads(wire.encode(again)) == json.loads(stored)


@pytest.mark.parametrize("kind", COMMAND_TYPES, ids=lambda kind: kind.type_name())
def test_a_command_decodes_and_encodes_to_the_same(kind: type[Command]) -> None:
    stored = example_of(kind.type_name())
    assert json.loads(wire.encode(wire.decode(stored, kind))) == json.loads(stored)


def test_every_example_is_of_a_known_type() -> None:
    folder = resources.files("webhost_contracts").joinpath("examples")
    stored = {Path(file.name).stem for file in folder.iterdir()}
    assert stored == {kind.type_name() for kind in (*EVENT_TYPES, *COMMAND_TYPES)}


def test_every_kind_has_an_owner() -> None:
    assert {kind.kind() for kind in EVENT_TYPES} == set(OWNERS)


def test_an_unknown_field_is_dropped() -> None:
    stored = json.loads(example_of("agent.created.v1"))
    stored["data"]["fromTheFuture"] = 1
    envelope = wire.decode(json.dumps(stored).encode(), Envelope)
    assert envelope.event(by_name(*EVENT_TYPES)) is not None


def test_an_unknown_type_is_no_event() -> None:
    stored = json.loads(example_of("agent.created.v1"))
    stored["data"]["type"] = "agent.painted.v1"
    envelope = wire.decode(json.dumps(stored).encode(), Envelope)
    assert envelope.event(by_name(*EVENT_TYPES)) is None


def test_the_catalogue_is_up_to_date() -> None:
    assert (ROOT / "docs" / "events.md").read_text("utf-8") == catalogue()


def test_the_catalogue_speaks_as_the_wire_does() -> None:
    """No name in Python's spelling, every part with its fields, every fact with its place."""
    text = catalogue()
    assert re.findall(r"`[a-z]+_[a-z_]+`", text) == []
    parts = set(re.findall(r"^\| `\w+` \| `([A-Z]\w+)[ `]", text, re.MULTILINE)) - {"Raw"}
    assert parts
    assert [name for name in parts if f"### `{name}`\n" not in text] == []
    assert len(re.findall(r"^On (?:EVENTS|USAGE)", text, re.MULTILINE)) == len(EVENT_TYPES)


@pytest.mark.parametrize("name", ["user.registered", "agent.created", "invocation.finished"])
def test_the_example_of_a_first_fact_is_its_aggregates_first(name: str) -> None:
    assert wire.decode(example_of(f"{name}.v1"), Envelope).version == 1
