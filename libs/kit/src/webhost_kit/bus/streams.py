"""The streams, buckets and their settings, declared once and applied idempotently.

A difference between this declaration and the server is logged, never overwritten in silence.
Each has a size at which it refuses what is new; none drops what it acknowledged. An operator may
change the sizes on the server: whoever watches goes by what they are there.
A service makes and sees only what its account on the bus lets it: the rest is others' to make.
"""

import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError, ServiceUnavailableError
from webhost_contracts import subjects

log = structlog.get_logger(__name__)

USAGE_DAYS = 400
"""A period can be rebuilt for at least 13 months."""

TOTALS_DAYS = 62
"""Totals of a period that ended long ago are of no use: they expire."""

MIB = 1024 * 1024
GIB = 1024 * MIB
TOTALS_BYTES = 1 * GIB
ARTIFACTS_BYTES = 8 * GIB

STREAMS = (
    StreamConfig(
        name=subjects.EVENTS,
        subjects=[subjects.ALL_EVENTS],
        storage=StorageType.FILE,
        max_bytes=4 * GIB,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        duplicate_window=120,
    ),
    StreamConfig(
        name=subjects.USAGE,
        subjects=[subjects.ALL_USAGE],
        storage=StorageType.FILE,
        max_age=USAGE_DAYS * 24 * 3600,
        max_bytes=16 * GIB,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        allow_atomic=True,
        duplicate_window=120,
    ),
    StreamConfig(
        name=subjects.COMMANDS,
        subjects=[subjects.ALL_COMMANDS],
        storage=StorageType.FILE,
        retention=RetentionPolicy.WORK_QUEUE,
        max_bytes=256 * MIB,
        discard=DiscardPolicy.NEW,
        duplicate_window=120,
    ),
    StreamConfig(
        name=subjects.DEAD_LETTERS,
        subjects=[subjects.ALL_DEAD_LETTERS],
        storage=StorageType.FILE,
        max_bytes=256 * MIB,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        duplicate_window=120,
    ),
)


_BY_NAME = {str(config.name): config for config in STREAMS}
NAMES = (*_BY_NAME, subjects.TOTALS_STREAM, subjects.ARTIFACTS_STREAM)
"""Everything that is declared; a bucket by the name of its stream."""


async def declare(js: JetStreamContext, replicas: int | None = None) -> None:
    """Make what is missing and ours to make, held by so many servers.

    Differences to what is there are logged. Raises NatsError while a cluster has no leader.
    """
    for name in NAMES:
        try:
            info = await js.stream_info(name)
        except NotFoundError:
            await _make_if_ours(js, name, replicas)
        except ServiceUnavailableError as error:
            if not is_others(error):
                raise
        else:
            if name in _BY_NAME:
                declared = _BY_NAME[name].evolve(num_replicas=replicas)
                _show_differences(declared, info.config)


def is_others(error: ServiceUnavailableError) -> bool:
    """Say whether nobody answers us, since the stream is not ours to see or to make.

    A server that is away says so with a code of its own.
    """
    return error.err_code is None


async def _make_if_ours(js: JetStreamContext, name: str, replicas: int | None) -> None:
    try:
        await make(js, name, replicas)
    except ServiceUnavailableError as error:
        if not is_others(error):
            raise


async def make(js: JetStreamContext, name: str, replicas: int | None = None) -> None:
    """Make one of NAMES; where it is there as declared, that changes nothing.

    Raises ServiceUnavailableError where another service makes it (`is_others`).
    """
    match name:
        case subjects.TOTALS_STREAM:
            ttl = TOTALS_DAYS * 24 * 3600
            await js.create_key_value(
                KeyValueConfig(
                    bucket=subjects.TOTALS_BUCKET,
                    history=1,
                    ttl=ttl,
                    max_bytes=TOTALS_BYTES,
                    replicas=replicas or 1,
                )
            )
        case subjects.ARTIFACTS_STREAM:
            await js.create_object_store(
                subjects.ARTIFACTS_BUCKET,
                ObjectStoreConfig(
                    bucket=subjects.ARTIFACTS_BUCKET,
                    max_bytes=ARTIFACTS_BYTES,
                    replicas=replicas or 1,
                ),
            )
        case _:
            await js.add_stream(_BY_NAME[name].evolve(num_replicas=replicas or 1))


def _show_differences(declared: StreamConfig, found: StreamConfig) -> None:
    wanted, there = declared.as_dict(), found.as_dict()
    differences = {
        key: {"declared": value, "found": there.get(key)}
        for key, value in wanted.items()
        if value is not None and there.get(key) != value
    }
    if differences:
        log.warning("stream differs from its declaration", stream=declared.name, **differences)
