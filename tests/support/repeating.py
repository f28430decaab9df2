"""One operation over and over, so that whatever strikes meanwhile strikes inside it."""

import threading
from collections.abc import Callable

_PATIENCE_S = 90


class Repeating:
    """Runs `operation(0)`, `operation(1)`, … without a pause until the block ends."""

    def __init__(self, operation: Callable[[int], None]) -> None:
        self.done = 0
        self._operation = operation
        self._more = threading.Condition()
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Repeating":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive(), "an operation hangs"
        if self._error is not None:
            raise self._error

    def wait_for(self, count: int) -> None:
        """Return when so many more are done than now."""
        wanted = self.done + count
        with self._more:
            reached = self._more.wait_for(
                lambda: self.done >= wanted or self._error is not None, _PATIENCE_S
            )
        assert reached, f"{self.done} of {wanted} operations are done"

    def _run(self) -> None:
        while not self._stop and self._error is None:
            try:
                self._operation(self.done)
            except BaseException as error:
                self._error = error
            with self._more:
                self.done += self._error is None
                self._more.notify_all()
