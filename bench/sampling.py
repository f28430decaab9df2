"""Looks at something again and again, in a thread beside the load."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def sampled(every_s: float, look: Callable[[], float]) -> Generator[list[float]]:
    """Give what was seen so far, the first time after `every_s`."""
    seen: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            seen.append(look())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()
