"""The simulation comes to what the benchmark saw, repeats itself, and shows what an outage does."""

import random
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import simpy

from bench.scale import capacity
from bench.scale.cell import LEASE_S, Cell
from bench.scale.measured import faster, measured
from bench.scale.parts import Batches, Cores, Disk, Steps
from bench.scale.plan import Plan
from bench.scale.run import Outage, closed_load, open_load

TOLERANCE = 0.15
ONE_MACHINE = Plan(gateways=1, postgres_cores=2, shared_cores=measured().seen.cores)
COSTS = measured()
CHOSEN = capacity.parameters()
PAGE = Path(__file__).parents[3] / "docs/scale.md"


@pytest.mark.parametrize(
    ("connections", "seen"), [(32, COSTS.seen.per_second_32), (64, COSTS.seen.per_second_64)]
)
def test_throughput_of_one_machine_is_the_benchmarks(connections: int, seen: float) -> None:
    result = closed_load(COSTS, ONE_MACHINE, connections=connections, seconds=2)

    assert result.per_second == pytest.approx(seen, rel=TOLERANCE)


def test_latency_of_one_call_at_a_time_is_the_benchmarks() -> None:
    result = closed_load(COSTS, ONE_MACHINE, connections=1, seconds=2)

    assert result.p50_ms == pytest.approx(COSTS.seen.p50_ms_1, rel=TOLERANCE)


def test_the_same_seed_gives_the_same_result() -> None:
    def result(seed: int) -> object:
        plan = Plan(gateways=2, ingests=1, billings=1, postgres_cores=2)
        return open_load(COSTS, plan, rate=200, worker_ms=20, seconds=1, seed=seed)

    assert result(7) == result(7)
    assert result(7) != result(8)


def test_every_fact_of_a_call_is_folded() -> None:
    plan = capacity.sized(COSTS, CHOSEN, 300)

    result = open_load(COSTS, plan, rate=300, worker_ms=20, seconds=4)

    # Two facts a call, and a fold looks every 0.2 s: no more than a second's wait.
    assert 0 < result.fold_most < 2 * 300
    assert result.refused == result.failed == 0


def test_more_than_a_gateway_can_do_is_refused() -> None:
    plan = Plan(gateways=1, postgres_cores=8)

    result = open_load(COSTS, plan, rate=4_000, worker_ms=20, seconds=2)

    assert result.refused > 0
    assert result.per_second < 2_500


def test_a_gateway_that_dies_costs_its_calls_and_the_others_go_on() -> None:
    plan = Plan(gateways=4, postgres_cores=4)

    result = open_load(
        *(COSTS, plan),
        rate=400,
        worker_ms=100,
        seconds=5,
        outage=Outage(what="gateway", at_s=3.0, noticed_s=1.0),
    )

    # A quarter of the calls of a second, and those under way.
    assert result.failed == pytest.approx(400 / 4 * 1.1, rel=0.3)
    assert result.refused == 0


def test_what_a_dead_gateway_had_admitted_is_counted_by_another() -> None:
    env, rng = simpy.Environment(), random.Random(1)
    plan = Plan(gateways=2, ingests=0, billings=1, postgres_cores=4)
    cell = Cell(env, COSTS, plan, rng)
    stored: list[int] = []
    cell.published = stored.extend

    def worker() -> Steps:
        yield env.timeout(0.1)

    def arrivals() -> Steps:
        for _ in range(400):
            yield env.timeout(rng.expovariate(200))
            cell.arrive(worker)

    env.process(arrivals())
    env.process(cell.kill_gateway(1.0, 0.0))
    env.run(until=1.0 + LEASE_S - 1.0)
    # Nobody sends calls to it any more: what failed was under way there, and admitted.
    assert cell.statistics.failed > 0
    assert len(stored) <= cell.statistics.done == 400 - cell.statistics.failed
    env.run(until=1.0 + LEASE_S + 1.0)
    assert len(stored) == 400


def test_a_billing_process_that_dies_leaves_its_share_to_the_others() -> None:
    plan = Plan(gateways=2, ingests=1, billings=2, postgres_cores=4)

    result = open_load(
        *(COSTS, plan),
        rate=200,
        worker_ms=20,
        seconds=14,
        outage=Outage(what="billing", at_s=3.0),
    )

    # Half of two facts a call, for ten seconds, wait; and are folded.
    assert result.fold_most == pytest.approx(200 * 10, rel=0.3)
    assert result.fold_back_s is not None
    assert 10 < result.fold_back_s < 11.5


def test_without_postgres_calls_are_refused_and_what_waits_is_recorded_afterwards() -> None:
    plan = Plan(gateways=2, ingests=1, billings=1, postgres_cores=4)

    result = open_load(
        *(COSTS, plan),
        rate=200,
        worker_ms=20,
        seconds=8,
        outage=Outage(what="Postgres", at_s=3.0, away_s=3.0),
    )

    # All that would have waited for longer than a second.
    assert result.refused == pytest.approx(200 * 2, rel=0.1)
    assert result.relay_end < 50
    assert result.fold_end < 2 * 200


def test_one_users_row_holds_up_statements_one_after_another() -> None:
    plan = Plan(gateways=8, postgres_cores=16)

    apart = open_load(COSTS, plan, rate=2_000, worker_ms=20, seconds=0.5)
    one = open_load(COSTS, replace(plan, hot_share=1.0), rate=2_000, worker_ms=20, seconds=0.5)

    assert one.added_p99_ms > 2 * apart.added_p99_ms


def test_commits_of_one_moment_share_a_flush() -> None:
    env = simpy.Environment()
    disk = Disk(env, lambda: 1.0)
    ended: list[float] = []

    def commit(at_s: float) -> Steps:
        yield env.timeout(at_s)
        yield disk.commit()
        ended.append(env.now)

    for at_s in (0.0, 0.1, 0.2):
        env.process(commit(at_s))
    env.run()

    assert ended == [1.0, 2.0, 2.0]
    assert disk.flushes == 2


def test_work_goes_to_the_core_that_is_free_first() -> None:
    env = simpy.Environment()
    cores = Cores(env, 2)
    ended: list[float] = []

    def work(seconds: float) -> Steps:
        yield cores.work(seconds)
        ended.append(env.now)

    for seconds in (3.0, 1.0, 1.0):
        env.process(work(seconds))
    env.run()

    assert ended == [1.0, 2.0, 3.0]


def test_a_batch_is_what_came_while_the_one_before_was_handled() -> None:
    env = simpy.Environment()
    handled: list[list[int]] = []

    def handle(batch: list[int]) -> Steps:
        handled.append(batch)
        yield env.timeout(1.0)

    batches = Batches[int](env, handle, most=2)

    def arrive() -> Steps:
        for number in range(4):
            batches.add(number)
            yield env.timeout(0.3)

    env.process(arrive())
    env.run()

    assert handled == [[0], [1, 2], [3]]


def test_faster_processors_leave_disks_as_they_are() -> None:
    fast = faster(COSTS, 2.0)

    assert fast.gateway.item_us == COSTS.gateway.item_us / 2
    assert fast.waits == COSTS.waits


def test_totals_are_the_first_limit_of_processing_and_usage_as_declared_of_all() -> None:
    found = capacity.walls(COSTS, CHOSEN, 10_000)
    disks = capacity.disk_walls(found)

    assert found[0].name == "USAGE as declared (16 GiB)"
    assert next(w.name for w in found if w.name not in disks) == "totals put on NATS"


def test_the_page_says_what_the_arithmetic_says() -> None:
    text = PAGE.read_text()
    section = text.partition("## The walls, by calls\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([\d,.]+)(?:, lasting)? \|", section, re.MULTILINE)
    found = capacity.walls(COSTS, CHOSEN, 10_000)

    assert len(rows) == len(found) > 0
    for (name, said), wall in zip(rows, found, strict=True):
        for size in re.findall(r"\((.+)\)", wall.name):
            assert size in name, (name, wall.name)
        assert rounded_as(said, wall.per_second) == float(said.replace(",", "")), wall.name


def rounded_as(said: str, value: float) -> float:
    """The value with as many digits as were said, zeros at the end of a whole number aside."""
    digits = len(said.replace(",", "").lstrip("0.").rstrip("0").replace(".", ""))
    return float(f"{value:.{digits}g}")


def test_a_user_is_put_at_most_once_for_each_turn_of_the_fold() -> None:
    few = capacity.puts_per_call(replace_users(10), 10_000)
    many = capacity.puts_per_call(replace_users(10_000_000), 10_000)

    assert few == pytest.approx(10 / 2_000)
    assert many == pytest.approx(1, rel=0.01)


def replace_users(users: int) -> capacity.Parameters:
    return msgspec.structs.replace(CHOSEN, users=users)


def test_scripts_have_a_price_beyond_those_that_are_included() -> None:
    few = msgspec.structs.replace(CHOSEN, agents=10)

    assert capacity.script_dollars(few) == 0
    assert capacity.script_dollars(CHOSEN) == pytest.approx(599_000 * CHOSEN.prices.script_month)


def test_cells_are_enough_for_their_rate() -> None:
    cells = capacity.cells_for(COSTS, CHOSEN, 10_000)
    found = capacity.walls(COSTS, CHOSEN, 10_000)
    lowest = min(w.per_second for w in found if w.name not in capacity.disk_walls(found))

    assert cells * lowest >= 10_000 > (cells - 1) * lowest
