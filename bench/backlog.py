"""How long the oldest fact that is not published yet has waited, watched while load runs."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import psycopg

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
    ages: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not ended.wait(EVERY_S):
                row = connection.execute(OLDEST_S).fetchone()
                ages.append(float(row[0]) if row else 0.0)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield ages
    finally:
        ended.set()
        watching.join()
