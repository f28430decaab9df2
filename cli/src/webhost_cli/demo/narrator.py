"""Prints what the demo does: each step, what was sent, what came back, what was checked."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from webhost_local.terminal import plain

from webhost_cli.errors import CommandError

T = TypeVar("T")

_LONGEST = 300
_LOOK_EVERY_S = 0.05


class DemoFailed(CommandError):
    """A step was wrong; the message says what was expected and what there was."""


class Narrator:
    """Prints steps and checks, and counts them. All times are seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self.steps = 0
        self.checks = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def step(self, title: str) -> Generator[None]:
        """One step of the demo; a failure in it is shown with the step's name."""
        self.steps += 1
        self._print(f"\n{self.steps:>2}. {title}", style="bold")
        began = time.monotonic()
        try:
            yield
        except CommandError as error:
            raise DemoFailed(f"step {self.steps} ({title}): {error}") from error
        except (LookupError, ValueError) as error:
            reason = f"an answer does not follow the contract: {error!r}"
            raise DemoFailed(f"step {self.steps} ({title}): {reason}") from error
        self._print(f"    done in {time.monotonic() - began:.2f} s", style="dim")

    def sent(self, what: str, body: Any = None) -> None:
        self._print(f"    → {what}{_short(body)}")

    def got(self, what: str, body: Any = None) -> None:
        self._print(f"    ← {what}{_short(body)}")

    def note(self, text: str) -> None:
        self._print(f"      {text}", style="dim")

    def check(self, what: str, *, expected: T, actual: T) -> None:
        """Fail unless these are equal."""
        if actual != expected:
            raise DemoFailed(f"{what}\n  expected: {expected!r}\n  actual:   {actual!r}")
        self.holds(_clipped(f"{what}: {_plain(actual)}"), True)

    def holds(self, what: str, condition: bool) -> None:
        """Fail unless the condition is true; `what` describes it, with its numbers."""
        if not condition:
            raise DemoFailed(f"this check failed: {what}")
        self.checks += 1
        self._print(f"    ✓ {what}", style="green")

    def wait_for(self, what: str, look: Callable[[], T], expected: T, *, seconds: float) -> None:
        """Poll until the value is as expected; fail, with the last value, after `seconds`."""
        began = time.monotonic()
        while (actual := look()) != expected and time.monotonic() - began < seconds:
            time.sleep(_LOOK_EVERY_S)
        if actual == expected:
            self.note(f"settled after {time.monotonic() - began:.2f} s")
        self.check(what, expected=expected, actual=actual)

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(plain(text), style=style, markup=False, soft_wrap=True)


def _short(body: Any) -> str:
    if body is None:
        return ""
    return " " + _clipped(json.dumps(body, ensure_ascii=False))


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=list)
