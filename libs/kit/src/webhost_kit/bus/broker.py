"""The FastStream broker that receives commands and requests, and its AsyncAPI document.

Handlers are typed: FastStream decodes a message's JSON with msgspec to the struct that a handler
takes, encodes the struct that it returns, and describes both.
"""

import json
from typing import Any, cast

from fast_depends.msgspec import MsgSpecSerializer
from faststream.nats import NatsBroker
from faststream.nats.security import NatsSecurity

from webhost_kit.bus.connection import in_turn, inbox_prefix, is_tls, log_error


def broker(urls: str, name: str, middleware: Any) -> NatsBroker:
    """Return a broker that always reconnects and wraps each message in this middleware."""
    return NatsBroker(
        **in_turn(urls),
        name=name,
        inbox_prefix=inbox_prefix(name),
        security=NatsSecurity(tls_handshake_first=True) if is_tls(urls) else None,
        error_cb=log_error,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=2,
        ping_interval=2,
        max_outstanding_pings=2,
        logger=None,
        serializer=MsgSpecSerializer(),
        middlewares=(middleware,),
    )


def describe(described: NatsBroker, title: str, *more: NatsBroker) -> str:
    """Return the AsyncAPI document of the brokers' subscriptions, as JSON with sorted keys."""
    from faststream.specification import AsyncAPI

    document: dict[str, Any] = {}
    for each in (described, *more):
        own = AsyncAPI(each, title=title, version="1").to_specification().to_json()
        document = _joined(document, json.loads(own))
    return json.dumps(document, indent=2, sort_keys=True)


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for name, theirs in other.items():
        own = both.get(name)
        is_group = isinstance(own, dict) and isinstance(theirs, dict)
        both[name] = _joined(cast(Any, own), cast(Any, theirs)) if is_group else theirs
    return both
