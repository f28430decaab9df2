"""Pure: what a batch states in the feed of settled usage.

An invocation is settled by the report that makes it known from both sides, or else once the time
of its partition is an hour past its first report, or once its period is sealed. Settled, its charge
becomes an entry under the id of the invocation; what its other side changes later becomes a
correction. That is the difference, under `<id>.1`; where more than counters changed (the time, the
period, the API key), what was stated is taken back under `<id>.1`, and stated anew under `<id>.2`.
A correction of nothing is none.

The id of what the gateway has not reported is made of its key: a Worker names its reports as it
likes, and must not take the id of another's invocation.

The time of a partition is the newest time of the stream's messages in it, as far as it is folded.
Entries are in its order, so they do not depend on where batches end: an invocation that waits is
settled when its hour is over, before all reports from then on, whoever notices first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from webhost_contracts.usage_rpc import Counters

from webhost_billing.charging import subtract
from webhost_billing.folding import Charged, Step

WAIT_MS = 3_600_000


class Entry(msgspec.Struct, frozen=True):
    """An entry: of what is known of an invocation, with these counters.

    `settled_ms` is the time of the partition at which it was settled, and `place` orders what was
    at the same time: 0 for what had waited, then the batch's reports.
    """

    id: str
    settled_ms: int
    place: int
    charged: Charged
    counters: Counters
    correction_of: str | None = None


@dataclass
class Settled:
    """What a batch comes to: entries in order; since when new invocations wait, by key, and which
    ones do not any more; the partition's time after it.

    What waited before, is in no report of the batch, and is due by then, is not among them.
    """

    stream_ms: int
    entries: list[Entry] = field(default_factory=list[Entry])
    waiting: dict[bytes, int] = field(default_factory=dict[bytes, int])
    done: list[bytes] = field(default_factory=list[bytes])


def settle(
    steps: Iterable[Step], waiting: Mapping[bytes, int], stream_ms: int, newest_ms: int
) -> Settled:
    """Return what these steps settle, of a partition whose time is `stream_ms` before them.

    `waiting` says since when, for those of the steps' invocations that were waiting before;
    `newest_ms` is the newest time of the batch's messages.
    """
    settled = Settled(max(stream_ms, newest_ms))
    new: dict[bytes, tuple[int, Charged]] = {}
    for place, step in enumerate(steps, 1):
        now_ms = max(stream_ms, step.stream_ms)
        if step.before is None:
            new[step.key] = (now_ms, step.after)
            continue
        since_ms = waiting.get(step.key)
        if step.key in new:
            since_ms, _ = new.pop(step.key)
        elif since_ms is not None:
            settled.done.append(step.key)
        if since_ms is not None and since_ms + WAIT_MS > now_ms:
            settled.entries.append(_first(step.key, step.after, now_ms, place))
            continue
        if since_ms is not None:
            settled.entries.append(_first(step.key, step.before, since_ms + WAIT_MS, 0))
        settled.entries += _corrections(step, step.before, now_ms, place)
    for key, (since_ms, charged) in new.items():
        if since_ms + WAIT_MS <= settled.stream_ms:
            settled.entries.append(_first(key, charged, since_ms + WAIT_MS, 0))
        else:
            settled.waiting[key] = since_ms
    return settled


def entry_id(key: bytes, charged: Charged) -> str:
    """Return the id under which an invocation is stated that is known so far."""
    gateway = charged.invocation.gateway
    return f"use_{key.hex()}" if gateway is None else gateway.invocation_id


def _first(key: bytes, charged: Charged, settled_ms: int, place: int) -> Entry:
    return Entry(entry_id(key, charged), settled_ms, place, charged, charged.charge.counters)


def _corrections(step: Step, before: Charged, now_ms: int, place: int) -> list[Entry]:
    of = entry_id(step.key, before)
    old, new = before.charge.counters, step.after.charge.counters
    if _labels(before) == _labels(step.after):
        if old == new:
            return []
        return [Entry(f"{of}.1", now_ms, place, step.after, subtract(new, old), of)]
    return [
        Entry(f"{of}.1", now_ms, place, before, subtract(Counters(), old), of),
        Entry(f"{of}.2", now_ms, place, step.after, new, of),
    ]


def _labels(charged: Charged) -> tuple[object, ...]:
    """Return all by which somebody may group or date an entry."""
    invocation, row = charged.invocation, charged.charge.row
    return (
        *(row.user_id, row.period_key, row.runtime_provider, invocation.at_ms),
        *(invocation.agent_id, invocation.deployment_id, invocation.key_id),
    )
