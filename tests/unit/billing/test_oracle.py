"""The fold agrees with a model that shares no rule with it, however the stream is cut up."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webhost_billing.charging import Price, PriceBook, Rules, UsageRow, add
from webhost_billing.folding import Charged, RowChange, fold
from webhost_billing.model import usage_report_of
from webhost_billing.seals import decisions as sealing
from webhost_billing.seals.decisions import ALWAYS, SEAL_DELAY_MS, Seal, Seals, StreamPlace
from webhost_contracts import subjects
from webhost_contracts.events import InvocationFinished, TelemetryAccepted
from webhost_contracts.usage_rpc import Counters
from webhost_kit.eventsourcing.facts import Fact

from tests.support.facts import envelope
from tests.unit.billing import usage_oracle as oracle
from tests.unit.billing.usage_oracle import Message, Report

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
LARGEST = 10**9
LONGEST_CALL_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


# Admissions: the ends of a year, of a leap month and of a month without its leap day, both nights
# on which clocks change in Europe, the midnights at which prices change, and an ordinary time.
EDGES = [
    *(ms("2027-12-31T23:59:59") + 999, ms("2028-01-01T00:00:00")),
    *(ms("2028-02-28T23:59:59") + 999, ms("2028-02-29T23:59:59") + 999, ms("2028-03-01T00:00:00")),
    *(ms("2027-02-28T23:59:59") + 999, ms("2027-03-01T00:00:00")),
    *(ms("2027-03-28T01:00:00"), ms("2027-03-28T00:59:59") + 999, ms("2027-10-31T01:00:00")),
    *(ms("2027-07-15T00:00:00") - 1, ms("2027-07-15T00:00:00"), ms("2027-11-30T23:59:59") + 999),
    ms("2027-06-15T12:00:00"),
]
PRICES = [("2027-01-01", 1, 20_000, 0), ("2027-07-15", 2, 30_000, 7), ("2028-02-01", 0, 1, 10**6)]
BOOK = PriceBook(
    [
        Price(
            effective_from=datetime.fromisoformat(day).replace(tzinfo=UTC),
            request=request,
            million_compute_ms=compute,
            million_tokens=tokens,
        )
        for day, request, compute, tokens in PRICES
    ]
)
ORACLES_PRICES = [
    oracle.Price(ms(day) // DAY, request, compute, tokens)
    for day, request, compute, tokens in PRICES
]
RULES = Rules(BOOK, LONGEST_CALL_MS)

# How long after its admission a report is on the stream; from 67 days on, each is too late.
DELAYS = [0, 1, SECOND, 3 * 60 * SECOND, 25 * HOUR, 34 * DAY, 36 * DAY - 1, 36 * DAY, 37 * DAY]
DELAYS += [36 * DAY + 1, 67 * DAY, 70 * DAY, 400 * DAY]
SKEWS = [0, 0, 0, -1, 1, 300 * SECOND, -300 * SECOND, -34 * DAY, 31 * DAY]
COUNT = st.sampled_from([0, 1, 7, 61_000, 61_001, LARGEST]) | st.integers(0, LARGEST)
USERS = ["usr_a", "usr_b", "usr_c", "usr_d"]


@st.composite
def reports(draw: st.DrawFn) -> list[tuple[int, Report]]:
    """The reports of one call, each with the time at which it is stored."""
    user, at_ms = draw(st.sampled_from(USERS)), draw(st.sampled_from(EDGES))
    call = draw(st.sampled_from(["inv_1", "inv_2", "inv_3"]))
    found: list[tuple[int, Report]] = []
    for side in draw(st.lists(st.sampled_from(["gateway", "worker"]), min_size=1, max_size=4)):
        stored_ms = at_ms + draw(st.sampled_from(DELAYS))
        runtime = draw(st.sampled_from(["cloudflare", "cloudflare", "agentcore"]))
        if side == "gateway":
            report = Report(
                *(user, "dep_1", call, side, runtime, at_ms),
                errors=draw(st.integers(0, 1)),
                wall_ms=draw(st.none() | COUNT),
            )
        else:
            report = Report(
                *(user, "dep_1", call, side, runtime, at_ms + draw(st.sampled_from(SKEWS))),
                errors=draw(COUNT),
                requests=draw(COUNT),
                tokens=draw(COUNT),
                compute_ms=draw(COUNT),
                tool_calls=draw(COUNT),
            )
        found.append((stored_ms, report))
    return found


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """A stream of packets: each holds reports of one partition, in the order of their times.

    Its clock may go back by a little, as that of a new leader would.
    """
    calls = draw(st.lists(reports(), max_size=6))
    stored = sorted(itertools.chain.from_iterable(calls), key=lambda one: one[0])
    messages: list[Message] = []
    for at_ms, report in stored:
        partition = subjects.partition_of(report.user)
        last = messages[-1] if messages else None
        if last is not None and last.partition == partition and draw(st.booleans()):
            messages[-1] = Message(
                last.sequence, last.stored_ms, partition, (*last.reports, report)
            )
            continue
        back_ms = draw(st.sampled_from([0, 0, 0, 0, 2 * SECOND]))
        sequence = (last.sequence if last else 0) + draw(st.integers(1, 3))
        messages.append(Message(sequence, at_ms - back_ms, partition, (report,)))
    return messages


def facts_of(message: Message) -> Iterator[Fact]:
    for index, report in enumerate(message.reports):
        if report.side == "gateway":
            fact = InvocationFinished(
                agent_id="agt_1",
                deployment_id=report.deployment,
                runtime_provider=report.runtime,
                trace_id="trace",
                admitted_at_ms=report.at_ms,
                outcome="unknown" if report.wall_ms is None else "succeeded",
                errors=report.errors,
                wall_ms=report.wall_ms,
            )
            stated = envelope(report.user, report.call, fact, at_ms=message.stored_ms)
        else:
            fact = TelemetryAccepted(
                agent_id="agt_1",
                deployment_id=report.deployment,
                runtime_provider=report.runtime,
                dedupe_key=f"event:{report.call}",
                timestamp_ms=report.at_ms,
                requests=report.requests,
                llm_tokens=report.tokens,
                compute_ms=report.compute_ms,
                tool_calls=report.tool_calls,
                errors=report.errors,
            )
            stated = envelope(report.user, f"evt_{report.call}", fact, at_ms=message.stored_ms)
        yield Fact(message.sequence, message.stored_ms, stated, fact, index)


class Book:
    """One generation's rows in memory, and who was late."""

    def __init__(self) -> None:
        self.known: dict[bytes, Charged] = {}
        self.rows: dict[UsageRow, RowChange] = {}
        self.late: list[tuple[int, int]] = []

    def fold(self, facts: Sequence[Fact], seals: Seals) -> None:
        told = [usage_report_of(f.envelope, f.event, f.sequence, f.index) for f in facts]
        changes = fold(self.known, told, RULES, seals)
        self.known |= changes.charged
        self.late += [(report.sequence, report.index) for report in changes.late]
        for row, change in changes.rows.items():
            before = self.rows.get(row, RowChange())
            self.rows[row] = RowChange(
                add(before.counters, change.counters),
                before.invocations + change.invocations,
                max(before.updated_at_ms, change.updated_at_ms),
            )

    def forget(self, through: str) -> None:
        """Remove what is known of closed periods, as billing does some time later."""
        self.known = {
            key: one for key, one in self.known.items() if one.charge.row.period_key > through
        }

    def of(self, partition: int, before: str, through: str) -> dict[UsageRow, RowChange]:
        return {
            row: change
            for row, change in self.rows.items()
            if before < row.period_key <= through
            and subjects.partition_of(row.user_id) == partition
            and change.invocations
        }


def lived(
    stream: Sequence[Message], random: Random
) -> tuple[Book, list[Seal], dict[UsageRow, RowChange]]:
    """The stream as billing's processes live through it; its seals, and what they stated."""
    book, applied, stated = Book(), [], {}
    places = {partition: StreamPlace(partition) for partition in range(subjects.PARTITIONS)}
    for batch in cut(stream, random):
        for partition in {message.partition for message in batch}:
            facts = [f for m in batch if m.partition == partition for f in facts_of(m)]
            before = places[partition].through
            places[partition], parts = sealing.divide(places[partition], facts, RULES.seal_delay_ms)
            for part in parts:
                if part.seal is not None:
                    stated |= book.of(partition, before, part.seal.through)
                    applied.append(part.seal)
                    before = part.seal.through
                book.fold(part.facts, Seals([Seal(partition, before, ALWAYS)]))
        if random.random() < 0.5:
            book.forget(min(place.through for place in places.values()))
    return book, applied, stated


def rebuilt(stream: Sequence[Message], seals: Seals, random: Random) -> Book:
    """The stream folded again by another process, which goes by the seals' positions alone."""
    book = Book()
    for batch in cut(stream, random):
        book.fold([fact for message in batch for fact in facts_of(message)], seals)
    return book


def cut(stream: Sequence[Message], random: Random) -> Iterator[Sequence[Message]]:
    left = list(stream)
    while left:
        size = random.randint(1, len(left))
        yield left[:size]
        del left[:size]


def sums(rows: dict[UsageRow, RowChange]) -> dict[tuple[str, int, int, str], tuple[int, ...]]:
    found: dict[tuple[str, int, int, str], tuple[int, ...]] = {}
    for row, change in rows.items():
        if change.invocations:
            year, month = row.period_key.split("-")
            c = change.counters
            found[row.user_id, int(year), int(month), row.runtime_provider] = (
                *(change.invocations, c.requests, c.llm_tokens, c.compute_ms),
                *(c.tool_calls, c.errors, c.cost_picodollars),
            )
        else:
            assert change.counters == Counters()
    return found


def agree(stream: Sequence[Message], random: Random) -> None:
    wanted = oracle.expected(stream, ORACLES_PRICES, LONGEST_CALL_MS, SEAL_DELAY_MS)
    book, seals, stated = lived(stream, random)
    assert sums(book.rows) == wanted.usage
    assert sorted(book.late) == wanted.late
    # What was stated at a seal holds for ever, down to the time of the last change.
    assert {row: book.rows[row] for row in stated} == stated
    again = rebuilt(stream, Seals(seals), random)
    assert (again.rows, sorted(again.late)) == (book.rows, wanted.late)


def oracle_agrees(cases: int):
    @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
    @given(streams(), st.randoms(use_true_random=False))
    def run(stream: list[Message], random: Random) -> None:
        agree(stream, random)

    return run


@pytest.mark.accept("8.oracle")
def test_the_fold_agrees_with_the_oracle() -> None:
    oracle_agrees(300)()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.accept("8.oracle")
def test_the_fold_agrees_with_the_oracle_in_ten_thousand_cases() -> None:
    oracle_agrees(10_000)()


@pytest.mark.accept("8.oracle")
def test_the_largest_values_by_the_million_are_exact() -> None:
    """A thousand largest calls are folded, and their rows added up a thousand times."""
    at_ms = ms("2028-02-29T12:00:00")
    told = [
        report
        for number in range(1_000)
        for report in (
            Report("usr_a", "dep", str(number), "gateway", "cloudflare", at_ms, 1, LARGEST),
            Report(
                *("usr_a", "dep", str(number), "worker", "cloudflare", at_ms, LARGEST, None),
                *(LARGEST, LARGEST, LARGEST, LARGEST),
            ),
        )
    ]
    stream = [Message(1, at_ms, subjects.partition_of("usr_a"), tuple(told))]
    book = rebuilt(stream, Seals(), Random(1))
    [change] = book.rows.values()
    total = Counters()
    for _ in range(1_000):
        total = add(total, change.counters)
    usage = oracle.expected(stream, ORACLES_PRICES, LONGEST_CALL_MS, SEAL_DELAY_MS).usage
    [wanted] = usage.values()
    million = tuple(1_000 * value for value in wanted)
    assert million == (
        *(10**6, total.requests, total.llm_tokens, total.compute_ms),
        *(total.tool_calls, total.errors, total.cost_picodollars),
    )
    assert total.cost_picodollars == 10**15 * (1 + 10**6)


@pytest.mark.accept("8.oracle")
@pytest.mark.parametrize("apart_ms", [SECOND, 3 * 60 * SECOND, 25 * HOUR, 34 * DAY])
@pytest.mark.parametrize("side", ["gateway", "worker"])
def test_a_report_counts_once_until_its_period_is_sealed(side: str, apart_ms: int) -> None:
    at_ms = ms("2028-01-31T23:59:59") + 999
    sealed_ms = ms("2028-02-01T00:00:00") + 36 * DAY
    report = Report("usr_a", "dep", "inv", side, "cloudflare", at_ms, 0, 5, 1, 5, 5, 0)
    partition = subjects.partition_of("usr_a")
    times = [at_ms + 5, at_ms + 5 + apart_ms, sealed_ms - 1, sealed_ms, sealed_ms + DAY]
    stream = [Message(n, time, partition, (report,)) for n, time in enumerate(times, 1)]
    agree(stream, Random(1))
    book, [*_, seal], _ = lived(stream, Random(1))
    assert sums(book.rows)["usr_a", 2028, 1, "cloudflare"][0:2] == (1, 1)
    assert book.late == [(4, 0), (5, 0)]
    assert (seal.through, seal.sequence) == ("2028-01", 3)
