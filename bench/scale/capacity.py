"""What limits a cell, in calls a second, and what a million calls cost: arithmetic, no queues."""

import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
from webhost_billing.projection import PAUSE_S
from webhost_contracts.subjects import PARTITIONS
from webhost_kit.bus.streams import GIB

from bench.scale.measured import Measured, Part
from bench.scale.plan import Plan

FILE = Path(__file__).with_name("parameters.toml")
SHARED_STATEMENT = 9.0
"""Calls that share a statement in the crowd in which processor times were measured."""
SHARED_IN_CELL = 4.0
"""Where several gateways share the calls, statements are smaller: Postgres has room for that."""
USAGE_DECLARED = 16 * GIB
DAY_S = 86_400
MONTH_DAYS = 30.4
MILLION = 1e6


class LargestCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest machines of a cell."""

    postgres_cores: int
    postgres_tb: float
    usage_tb: float
    wal_mb_per_s: float
    gateways: int


class Days(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long what a call leaves is kept."""

    invocations_gateway: int
    invocations_billing: int
    usage_events: int
    usage_feed: int
    usage: int
    minutes: int
    hours: int


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars."""

    core_hour: float
    disk_gb_month: float
    copies: int
    request_million: float
    object_request_million: float
    script_month: float
    scripts_included: int


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator chooses."""

    utilisation: float
    network_ms: float
    worker_ms: float
    users: int
    agents: int
    deployments_kept: int
    cell: LargestCell
    days: Days
    prices: Prices


def parameters(file: Path = FILE) -> Parameters:
    """Return what the file says."""
    return msgspec.toml.decode(file.read_bytes(), type=Parameters)


@dataclass(frozen=True)
class Wall:
    """What one cell can do of it, in calls a second."""

    name: str
    per_second: float


def processor_us(costs: Measured) -> dict[str, float]:
    """Return what a call costs each process, in a crowd."""
    return {
        "gateway": _in_crowd(costs.gateway),
        "Postgres, admission": _in_crowd(costs.gateway_postgres),
        "NATS": costs.gateway_nats.item_us,
        "telemetry-ingest": costs.ingest.item_us,
        "billing": 2 * costs.billing.item_us,
        "Postgres, fold": 2 * costs.billing_postgres.item_us,
    }


def walls(costs: Measured, chosen: Parameters, rate: float) -> list[Wall]:
    """Return what limits one cell at such a rate of all cells, the lowest first.

    What a disk has to hold is meant for a rate that lasts; the others for any second.
    """
    used, cell, days = processor_us(costs), chosen.cell, chosen.days
    postgres_us = used["Postgres, admission"] + used["Postgres, fold"]
    wal = costs.bytes.wal_gateway + costs.bytes.wal_billing
    usage_s = costs.bytes.usage * days.usage * DAY_S
    found = [
        Wall("USAGE as declared (16 GiB)", USAGE_DECLARED / usage_s),
        Wall(f"USAGE's disk ({cell.usage_tb:g} TB)", cell.usage_tb * 1e12 / usage_s),
        Wall(
            f"Postgres' disk ({cell.postgres_tb:g} TB)",
            cell.postgres_tb * 1e12 / (row_byte_days(costs, chosen, rate) * DAY_S),
        ),
        Wall("totals put on NATS", costs.totals_per_second / puts_per_call(chosen, rate)),
        Wall(
            f"Postgres' processor ({cell.postgres_cores} cores)",
            cell.postgres_cores * chosen.utilisation * MILLION / postgres_us,
        ),
        Wall(f"Postgres' WAL ({cell.wal_mb_per_s:g} MB/s)", cell.wal_mb_per_s * 1e6 / wal),
        Wall(
            f"fold ({PARTITIONS} processes)",
            PARTITIONS * chosen.utilisation * MILLION / used["billing"],
        ),
        Wall(
            f"gateways ({cell.gateways})",
            cell.gateways * chosen.utilisation * MILLION / used["gateway"],
        ),
    ]
    return sorted(found, key=lambda wall: wall.per_second)


def disk_walls(found: list[Wall]) -> set[str]:
    """Return the names of those that are a disk's size, which more of it moves."""
    return {wall.name for wall in found if "disk" in wall.name or "declared" in wall.name}


def puts_per_call(chosen: Parameters, rate: float) -> float:
    """Return how many totals are put for a call: a user's once for each turn of the fold."""
    calls = rate * PAUSE_S
    return chosen.users * -math.expm1(-calls / chosen.users) / calls


def row_byte_days(costs: Measured, chosen: Parameters, rate: float) -> float:
    """Return the bytes of Postgres' rows of a call, each times the days that it is kept."""
    size, days = costs.bytes, chosen.days
    calls = (
        size.invocations_gateway * days.invocations_gateway
        + size.invocations_billing * days.invocations_billing
        + size.usage_events * days.usage_events
        + size.usage_feed * days.usage_feed
    )
    # An agent has a row of each bucket in which it was called.
    minutes = chosen.agents * -math.expm1(-rate * 60 / chosen.agents) / (rate * 60)
    hours = chosen.agents * -math.expm1(-rate * 3600 / chosen.agents) / (rate * 3600)
    return calls + size.series_row * (minutes * days.minutes + hours * days.hours)


def sized(costs: Measured, chosen: Parameters, rate: float) -> Plan:
    """Return the processes of a cell that has so many calls a second, one gateway to spare."""
    used = processor_us(costs)

    used["Postgres, admission"] = _in_crowd(costs.gateway_postgres, SHARED_IN_CELL)

    def count(*names: str) -> int:
        return max(1, math.ceil(rate * sum(used[n] for n in names) / MILLION / chosen.utilisation))

    return Plan(
        gateways=max(1, count("gateway")) + 1,
        ingests=max(2, count("telemetry-ingest")),
        billings=max(2, count("billing")),
        postgres_cores=max(2, count("Postgres, admission", "Postgres, fold")),
        network_ms=chosen.network_ms,
    )


def cells_for(costs: Measured, chosen: Parameters, rate: float) -> int:
    """Return how many cells there have to be for this rate, their disks' sizes aside."""
    found = walls(costs, chosen, rate)
    lowest = min(w.per_second for w in found if w.name not in disk_walls(found))
    return math.ceil(rate / lowest)


def per_million(costs: Measured, chosen: Parameters, rate: float) -> dict[str, float]:
    """Return what a million calls cost: core-seconds, GB, GB-months, dollars."""
    used, size, prices = processor_us(costs), costs.bytes, chosen.prices
    core_s = {f"core-seconds, {name}": us for name, us in used.items()}
    stream = size.usage * MILLION / 1e9
    rows = row_byte_days(costs, chosen, rate) / MONTH_DAYS * MILLION / 1e9
    held = stream * chosen.days.usage / MONTH_DAYS
    dollars = {
        "dollars, processors": sum(used.values()) / chosen.utilisation / 3600 * prices.core_hour,
        "dollars, USAGE": held * prices.copies * prices.disk_gb_month,
        "dollars, Postgres' rows": rows * prices.copies * prices.disk_gb_month,
        "dollars, Workers": prices.request_million + prices.object_request_million,
    }
    return {
        **core_s,
        "GB of WAL, admission": size.wal_gateway * MILLION / 1e9,
        "GB of WAL, fold": size.wal_billing * MILLION / 1e9,
        "GB on USAGE": stream,
        "GB-months on USAGE": held,
        "GB-months of rows": rows,
        **dollars,
    }


def script_dollars(chosen: Parameters) -> float:
    """Return what the agents' scripts cost a month in a dispatch namespace, called or not."""
    beyond = chosen.agents * chosen.deployments_kept - chosen.prices.scripts_included
    return max(0, beyond) * chosen.prices.script_month


def _in_crowd(part: Part, shared: float = SHARED_STATEMENT) -> float:
    return part.item_us + part.batch_us / shared
