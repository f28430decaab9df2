"""The feed: the same entries wherever batches end, every invocation once, and in sum the usage."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_billing.charging import UsageRow, add
from webhost_billing.feed.decisions import WAIT_MS, Entry, entry_id, settle
from webhost_billing.folding import Charged, Step, fold
from webhost_billing.model import GatewaySide, Invocation, UsageReport, WorkerSide
from webhost_contracts.usage_rpc import Counters

from tests.unit.billing.test_charging import RULES, by_gateway, by_worker

MINUTE_MS = 60_000
KEYS = [b"a", b"b", b"c"]


@dataclass
class Partition:
    """What the tables hold of one partition. `state` is what the statement does, in memory."""

    known: dict[bytes, Charged] = field(default_factory=dict[bytes, Charged])
    waiting: dict[bytes, int] = field(default_factory=dict[bytes, int])
    stream_ms: int = 0
    feed: list[Entry] = field(default_factory=list[Entry])

    def batch(self, reports: Sequence[UsageReport]) -> None:
        if not reports:
            return
        times = itertools.accumulate((report.stream_ms for report in reports), max)
        reports = [replace(one, stream_ms=at) for one, at in zip(reports, times, strict=True)]
        changes = fold(self.known, reports, RULES)
        self._state(changes.steps, reports[-1].stream_ms, {**self.known, **changes.charged})

    def idle(self, at_ms: int) -> None:
        """Nothing arrived so far, and the stream's server says that it is this late."""
        self._state([], at_ms, self.known)

    def _state(self, steps: Sequence[Step], newest_ms: int, known: dict[bytes, Charged]) -> None:
        touched = {step.key for step in steps if step.before is not None}
        waiting = {key: at for key, at in self.waiting.items() if key in touched}
        settled = settle(steps, waiting, self.stream_ms, newest_ms)
        for key in settled.done:
            del self.waiting[key]
        due = [key for key, at in self.waiting.items() if at + WAIT_MS <= settled.stream_ms]
        entries = settled.entries + [
            Entry(
                entry_id(key, known[key]),
                self.waiting.pop(key) + WAIT_MS,
                0,
                known[key],
                known[key].charge.counters,
            )
            for key in due
        ]
        self.waiting |= settled.waiting
        self.feed += sorted(entries, key=lambda one: (one.settled_ms, one.place, one.id))
        self.known, self.stream_ms = known, settled.stream_ms

    def published(self) -> list[tuple[object, ...]]:
        """Without the places within a batch."""
        return [
            (one.id, one.settled_ms, one.charged, one.counters, one.correction_of)
            for one in self.feed
        ]


def of_key(key: bytes, invocation: Invocation) -> Invocation:
    if invocation.gateway is None:
        return invocation
    return replace(
        invocation, gateway=replace(invocation.gateway, invocation_id=f"inv_{key.decode()}")
    )


@st.composite
def streams(draw: st.DrawFn) -> list[UsageReport]:
    at_ms, reports = 1_000_000, list[UsageReport]()
    for _ in range(draw(st.integers(0, 12))):
        # Now and then the server's clock goes back.
        at_ms += draw(st.sampled_from([-MINUTE_MS, 0, 1, 20 * MINUTE_MS, WAIT_MS, 2 * WAIT_MS]))
        key = draw(st.sampled_from(KEYS))
        invocation = of_key(key, draw(by_gateway | by_worker))
        reports.append(UsageReport(key, invocation, at_ms, stream_ms=at_ms))
    return reports


# How fast inputs are made says nothing on a machine that is busy with other things.
cuts = st.lists(st.integers(0, 12), max_size=5)


def batches(reports: Sequence[UsageReport], ends: list[int]) -> list[Sequence[UsageReport]]:
    places = [0, *sorted(min(end, len(reports)) for end in ends), len(reports)]
    return [reports[start:end] for start, end in itertools.pairwise(places)]


def folded(*batched: Sequence[UsageReport]) -> Partition:
    partition = Partition()
    for batch in batched:
        partition.batch(batch)
    return partition


@pytest.mark.accept("8.feed.stream")
@given(streams(), cuts)
def test_entries_do_not_depend_on_where_batches_end(
    reports: list[UsageReport], ends: list[int]
) -> None:
    whole, cut = folded(reports), folded(*batches(reports, ends))
    assert cut.published() == whole.published()
    assert (cut.waiting, cut.stream_ms) == (whole.waiting, whole.stream_ms)


@pytest.mark.accept("8.feed.stream")
@given(streams(), cuts, st.lists(st.integers(0, 3 * WAIT_MS), min_size=6, max_size=6))
def test_what_an_idle_partition_settles_is_what_its_next_message_would_have(
    reports: list[UsageReport], ends: list[int], later: list[int]
) -> None:
    partition = Partition()
    for batch, wait_ms in zip(batches(reports, ends), later, strict=False):
        if batch:
            # No message that is stored after the server was asked is older than its answer.
            asked_ms = min(partition.stream_ms + wait_ms, batch[0].stream_ms)
            if asked_ms > partition.stream_ms:
                partition.idle(asked_ms)
        partition.batch(batch)
    assert partition.published() == folded(reports).published()


@pytest.mark.accept("8.feed.sums")
@given(streams(), cuts)
def test_settled_usage_is_the_sum_of_the_entries(
    reports: list[UsageReport], ends: list[int]
) -> None:
    partition = folded(*batches(reports, ends))
    sums: dict[UsageRow, Counters] = {}
    for entry in partition.feed:
        row = entry.charged.charge.row
        sums[row] = add(sums.get(row, Counters()), entry.counters)
    settled: dict[UsageRow, Counters] = {}
    for key, charged in partition.known.items():
        if key not in partition.waiting:
            row = charged.charge.row
            settled[row] = add(settled.get(row, Counters()), charged.charge.counters)
    assert {row: one for row, one in sums.items() if one != Counters()} == {
        row: one for row, one in settled.items() if one != Counters()
    }
    ids = [entry.id for entry in partition.feed]
    assert len(ids) == len(set(ids))
    stated = set(ids)
    assert all(one.correction_of in stated for one in partition.feed if one.correction_of)
    # After an hour of silence nothing waits.
    partition.idle(partition.stream_ms + WAIT_MS)
    assert partition.waiting == {}


def report(key: bytes, stored_ms: int, **changes: object) -> UsageReport:
    invocation = Invocation(
        user_id="usr_a",
        agent_id="agt_a",
        deployment_id="dep_a",
        runtime_provider="cloudflare",
        at_ms=1_700_000_000_000,
    )
    return UsageReport(key, replace(invocation, **changes), stored_ms, stream_ms=stored_ms)


GATEWAY = GatewaySide(invocation_id="inv_a", errors=0, wall_ms=100)
WORKER = WorkerSide(
    event_id="inv_b", requests=1, llm_tokens=10, compute_ms=40, tool_calls=0, errors=0
)


def told(partition: Partition) -> list[tuple[str, int, int]]:
    return [(one.id, one.counters.requests, one.counters.compute_ms) for one in partition.feed]


def test_both_sides_settle_at_once() -> None:
    partition = folded([report(b"a", 1, gateway=GATEWAY), report(b"a", 2, worker=WORKER)])
    assert told(partition) == [("inv_a", 1, 40)]


def test_one_side_settles_after_an_hour_and_the_other_corrects_it() -> None:
    partition = folded([report(b"a", 1, gateway=GATEWAY)])
    partition.idle(WAIT_MS)
    assert told(partition) == []
    partition.idle(1 + WAIT_MS)
    assert told(partition) == [("inv_a", 1, 100)]
    partition.batch([report(b"a", 2 + WAIT_MS, worker=WORKER)])
    assert told(partition) == [("inv_a", 1, 100), ("inv_a.1", 0, -60)]
    partition.batch([report(b"a", 3 + WAIT_MS, worker=WORKER)])
    assert len(partition.feed) == 2


def test_what_a_worker_reports_does_not_take_the_id_that_it_names() -> None:
    partition = folded([report(b"\x0b", 1, worker=WORKER)])
    partition.idle(1 + WAIT_MS)
    assert told(partition) == [("use_0b", 1, 40)]


def test_a_correction_of_more_than_counters_takes_back_and_states_anew() -> None:
    early = report(b"\x0b", 1, worker=WORKER, at_ms=1_600_000_000_000)
    late = report(b"\x0b", 1 + WAIT_MS, gateway=GATEWAY)
    partition = folded([early], [late])
    assert told(partition) == [("use_0b", 1, 40), ("use_0b.1", -1, -40), ("use_0b.2", 1, 40)]
    periods = [one.charged.charge.row.period_key for one in partition.feed]
    assert periods == ["2020-09", "2020-09", "2023-11"]
    assert {one.correction_of for one in partition.feed} == {None, "use_0b"}


def test_a_correction_of_nothing_is_none() -> None:
    nothing = replace(WORKER, compute_ms=100, llm_tokens=0)
    partition = folded(
        [report(b"a", 1, gateway=GATEWAY)], [report(b"a", 1 + WAIT_MS, worker=nothing)]
    )
    assert told(partition) == [("inv_a", 1, 100)]


@pytest.mark.accept("8.feed.sums")
@pytest.mark.parametrize(
    "change",
    [
        {"at_ms": 1_700_000_000_001},
        {"agent_id": "agt_b"},
        {"deployment_id": "dep_b"},
        {"key_id": "key_1"},
        {"runtime_provider": "agentcore"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_an_entry_is_grouped_by_is_taken_back_with_it(change: dict[str, object]) -> None:
    early = report(b"\x0b", 1, worker=WORKER)
    late = report(b"\x0b", 1 + WAIT_MS, gateway=GATEWAY, **change)
    partition = folded([early], [late])
    assert told(partition) == [("use_0b", 1, 40), ("use_0b.1", -1, -40), ("use_0b.2", 1, 40)]
    assert [one.correction_of for one in partition.feed] == [None, "use_0b", "use_0b"]
    [name] = change
    shown = [getattr(one.charged.invocation, name) == change[name] for one in partition.feed]
    assert shown == [False, False, True]


def test_an_invocation_waits_for_an_hour() -> None:
    assert WAIT_MS == 60 * MINUTE_MS
