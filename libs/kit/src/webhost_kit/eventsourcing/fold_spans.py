"""The spans of a batch that was folded: one in the trace of each fact, and one of the batch.

A fact's own span is a child of whoever stated it, so that its trace shows when it took effect here;
it links to the batch's, which links to them all and is a trace of its own. Of a batch at most
MOST_SPANS facts get one. What was stated long ago is folded again by a replay: that is no part of
any trace that somebody looks at, and gets none.
"""

from collections.abc import Iterable

from webhost_contracts import subjects

from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.process import tracing
from webhost_kit.process.trace_context import Context, parse
from webhost_kit.process.tracing import Value

MOST_SPANS = 128
RECENT_MS = 10 * 60 * 1000


def of_batch(projection: str, stream: str, facts: Iterable[Fact], started_ms: int) -> None:
    """Record that these facts were folded, and committed now."""
    if not tracing.is_enabled():
        return
    ended_ms = now_ms()
    sampled: list[tuple[Context, Fact]] = []
    skipped = 0
    for fact in facts:
        parent = parse(fact.envelope.traceparent)
        if parent is None or not parent.sampled or ended_ms - fact.recorded_at_ms > RECENT_MS:
            continue
        if len(sampled) < MOST_SPANS:
            sampled.append((parent, fact))
        else:
            skipped += 1
    links: tuple[Context, ...] = ()
    if len(sampled) > 1:
        attributes = about(projection, stream) | {
            "messaging.batch.message_count": len(sampled) + skipped,
        }
        batch = tracing.record(
            f"process {projection}",
            "consumer",
            started_ms,
            ended_ms,
            parent=None,
            attributes=attributes,
            links=[parent for parent, _ in sampled],
        )
        links = (batch,) if batch is not None else ()
    for parent, fact in sampled:
        tracing.record(
            f"process {fact.event.type_name()}",
            "consumer",
            started_ms,
            ended_ms,
            parent=parent,
            attributes=about(projection, stream),
            links=links,
        )


def of_fact(projection: str, fact: Fact) -> tracing.Span:
    """Return the span to fold this fact in, where what follows from it is to be its child."""
    if now_ms() - fact.recorded_at_ms > RECENT_MS:
        return tracing.NO_SPAN
    return tracing.span(
        f"process {fact.event.type_name()}",
        "consumer",
        traceparent=fact.envelope.traceparent,
        attributes=about(projection, subjects.EVENTS),
    )


def about(projection: str, stream: str) -> dict[str, Value]:
    """Return the attributes of what a projection consumes."""
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": projection,
    }
