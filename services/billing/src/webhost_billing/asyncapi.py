"""Prints the AsyncAPI document of billing's bus door; nothing is connected to.

The questions are decoded with msgspec behind the broker's back, so their schemas are put in here.
The order to rebuild is taken from the bus directly, and is described here too.
"""

import json
import sys
from typing import Any

import msgspec
from faststream.specification import AsyncAPI
from webhost_contracts import subjects
from webhost_contracts.questions import (
    RebuildQuestion,
    RecentEventsQuestion,
    SetTierQuestion,
    UsageQuestion,
)
from webhost_contracts.wire import Wire
from webhost_kit.commands import broker
from webhost_kit.database import Database

from webhost_billing.handlers import Handlers
from webhost_billing.subscribers import register

SCHEMAS = "#/components/schemas/{name}"
QUESTIONS: dict[str, type[Wire]] = {
    subjects.ASK_USAGE: UsageQuestion,
    subjects.ASK_RECENT_EVENTS: RecentEventsQuestion,
    subjects.ASK_SET_TIER: SetTierQuestion,
    subjects.ASK_REBUILD: RebuildQuestion,
}


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    questions = broker("nats://localhost:4222", "billing")
    register(questions, Handlers(Database("postgresql://localhost/billing"), ()))

    @questions.subscriber(
        subjects.ASK_REBUILD, title=subjects.ASK_REBUILD, description=RebuildQuestion.__doc__
    )
    async def _on_rebuild(body: bytes) -> None:  # pyright: ignore[reportUnusedFunction]
        """Describe what `subscribers.answer_rebuilds` takes."""

    specification = AsyncAPI(questions, title="webhost billing", version="1")
    described = json.loads(specification.to_specification().to_json())
    schemas: dict[str, Any] = described["components"]["schemas"]
    _, shapes = msgspec.json.schema_components(QUESTIONS.values(), ref_template=SCHEMAS)
    schemas.update(shapes)
    for subject, kind in QUESTIONS.items():
        schemas[f"{subject}:Message:Payload"] = {"$ref": SCHEMAS.format(name=kind.__name__)}
    return json.dumps(described, indent=2, sort_keys=True)


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
