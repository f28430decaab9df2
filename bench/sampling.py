"""Looks at something again and again, in a thread beside the load."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def sampled(every_s: float, look: Callable[[], float]) -> Generator[list[float]]:
    """Give what was seen so far, the first time after `every_s`.

    Raises, when the block ends, what `look` raised.
    """
    seen: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            seen.append(look())

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        try:
            yield seen
        finally:
            ended.set()
        watching.result()
