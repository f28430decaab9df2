"""How long the oldest fact that is not published yet has waited, watched while load runs."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from bench.sampling import sampled

EVERY_S = 0.1
OLDEST_S = """
SELECT coalesce(extract(epoch FROM clock_timestamp()) - min(oldest_ms) / 1000.0, 0)
FROM usage_outbox
"""


@contextmanager
def watched(dsn: str) -> Generator[list[float]]:
    """Take a sample of the gateway's outbox ten times a second; gives the ages, in seconds.

    Each is one short statement on a connection of its own.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:

        def oldest_s() -> float:
            row = connection.execute(OLDEST_S).fetchone()
            return float(row[0]) if row else 0.0

        with sampled(EVERY_S, oldest_s) as ages:
            yield ages
