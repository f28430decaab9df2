"""What was measured of the parts, from `measured.toml`: the only place of numbers that are not
parameters. Processor times are in µs, waits in ms, sizes in bytes.
"""

from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("measured.toml")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Processor time: of each item, and of each batch of them whatever its size."""

    item_us: float
    batch_us: float


class Waits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A flush of Postgres' disk; a stored batch on NATS, and each message of it."""

    flush_ms: float
    flush_cv: float
    stored_ms: float
    message_ms: float
    processor_cv: float


class Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a call leaves: WAL, the two facts on USAGE, and rows with their indexes, by table."""

    wal_gateway: float
    wal_billing: float
    usage: float
    invocations_gateway: float
    invocations_billing: float
    usage_events: float
    usage_feed: float
    series_row: float


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the benchmark saw on its one machine; the simulation has to come to it."""

    cores: int
    per_second_32: float
    per_second_64: float
    p50_ms_1: float


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. `gateway`, `worker` and `load` are by call, `gateway_postgres` by admitted and
    finished call, `ingest` by report, `billing` and `billing_postgres` by fact.
    """

    gateway: Part
    gateway_postgres: Part
    gateway_nats: Part
    worker: Part
    load: Part
    ingest: Part
    billing: Part
    billing_postgres: Part
    waits: Waits
    bytes: Bytes
    totals_per_second: float
    seen: Seen


def measured(file: Path = FILE) -> Measured:
    """Return what the file says."""
    return msgspec.toml.decode(file.read_bytes(), type=Measured)


def faster(costs: Measured, speed: float) -> Measured:
    """Return the costs on processors that are so many times as fast; disks stay as they are."""
    parts = {
        name: Part(part.item_us / speed, part.batch_us / speed)
        for name, part in msgspec.structs.asdict(costs).items()
        if isinstance(part, Part)
    }
    return msgspec.structs.replace(costs, **parts)
