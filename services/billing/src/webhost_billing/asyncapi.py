"""Prints the AsyncAPI document of what billing answers on the bus; nothing is connected to.

The requests are decoded with msgspec behind the broker's back, so their schemas are put in here.
The order to rebuild is taken from the bus directly, and is described here too.
"""

import json
import sys
from typing import Any

import msgspec
from faststream.specification import AsyncAPI
from webhost_contracts import subjects
from webhost_contracts.rpc import (
    RebuildRequest,
    RecentEventsRequest,
    SetTierRequest,
    UsageRequest,
)
from webhost_contracts.wire import Wire
from webhost_kit.bus.commands import broker
from webhost_kit.database.engine import Database

from webhost_billing.handlers import Handlers
from webhost_billing.subscribers import register

SCHEMAS = "#/components/schemas/{name}"
REQUESTS: dict[str, type[Wire]] = {
    subjects.RPC_USAGE: UsageRequest,
    subjects.RPC_RECENT_EVENTS: RecentEventsRequest,
    subjects.RPC_SET_TIER: SetTierRequest,
    subjects.RPC_REBUILD: RebuildRequest,
}


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    requests = broker("nats://localhost:4222", "billing")
    register(requests, Handlers(Database("postgresql://localhost/billing"), ()))

    @requests.subscriber(
        subjects.RPC_REBUILD, title=subjects.RPC_REBUILD, description=RebuildRequest.__doc__
    )
    async def _on_rebuild(body: bytes) -> None:  # pyright: ignore[reportUnusedFunction]
        """Describe what `subscribers.RebuildRequests` takes."""

    specification = AsyncAPI(requests, title="webhost billing", version="1")
    described = json.loads(specification.to_specification().to_json())
    schemas: dict[str, Any] = described["components"]["schemas"]
    _, shapes = msgspec.json.schema_components(REQUESTS.values(), ref_template=SCHEMAS)
    schemas.update(shapes)
    for subject, kind in REQUESTS.items():
        schemas[f"{subject}:Message:Payload"] = {"$ref": SCHEMAS.format(name=kind.__name__)}
    return json.dumps(described, indent=2, sort_keys=True)


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
