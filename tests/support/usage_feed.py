"""Somebody else's reader of the feed of usage: it knows CloudEvents, and nothing of ours."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.formats.json import JSONFormat

NUMBERS = ("requests", "llmTokens", "computeMs", "toolCalls", "errors")
PICODOLLARS = "costPicodollars"

Totals = dict[str, int]


def read_batch(body: str | bytes) -> list[BaseCloudEvent]:
    """The events of a JSON batch, each as valid as the CloudEvents SDK has it."""
    batch = json.loads(body)
    assert isinstance(batch, list)
    return [JSONFormat().read(None, json.dumps(event)) for event in batch]


@dataclass
class Reader:
    """Folds events into totals by user, period and runtime, each id once."""

    source: str | None = None
    events: dict[str, BaseCloudEvent] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    """Ids that came more than once."""

    def take(self, events: list[BaseCloudEvent]) -> None:
        for event in events:
            assert event.get_specversion() == "1.0"
            assert event.get_datacontenttype() == "application/json"
            assert event.get_source() == (self.source or event.get_source())
            self.source = event.get_source()
            if event.get_id() in self.events:
                self.again.append(event.get_id())
            self.events[event.get_id()] = event

    def totals(self) -> dict[tuple[str, str, str], Totals]:
        found: defaultdict[tuple[str, str, str], Totals] = defaultdict(
            lambda: dict.fromkeys((*NUMBERS, PICODOLLARS), 0)
        )
        for event in self.events.values():
            data: Any = event.get_data()
            row = found[(str(event.get_subject()), data["periodKey"], data["runtimeProvider"])]
            for name in NUMBERS:
                row[name] += data[name]
            row[PICODOLLARS] += int(data[PICODOLLARS])
        return {key: row for key, row in found.items() if any(row.values())}
