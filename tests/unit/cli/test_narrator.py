"""The demo's checks: what holds is shown, what does not ends it with both sides."""

import io
import time

import pytest
from rich.console import Console
from webhost_cli.demo.narrator import DemoFailed, Narrator
from webhost_cli.errors import CommandError


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def narrator(shown: io.StringIO) -> Narrator:
    return Narrator(Console(file=shown, width=200))


def test_what_holds_is_shown_and_counted(narrator: Narrator, shown: io.StringIO) -> None:
    with narrator.step("Look"):
        narrator.check("version", expected=1, actual=1)
        narrator.sent("GET /v1/me", {"x": "[bold]"})
    assert (narrator.steps, narrator.checks) == (1, 1)
    lines = shown.getvalue().splitlines()
    assert lines[1:4] == [" 1. Look", "    ✓ version: 1", '    → GET /v1/me {"x": "[bold]"}']


def test_what_does_not_hold_names_the_step_and_both_sides(narrator: Narrator) -> None:
    with pytest.raises(DemoFailed) as caught, narrator.step("Look"):
        narrator.check("version", expected=1, actual=2)
    assert str(caught.value) == "step 1 (Look): version\n  expected: 1\n  actual:   2"
    assert narrator.checks == 0


@pytest.mark.parametrize("error", [CommandError("refused"), KeyError("usage")])
def test_any_trouble_within_a_step_ends_the_demo(narrator: Narrator, error: Exception) -> None:
    with pytest.raises(DemoFailed, match=r"step 1 \(Look\): .*(refused|usage)"):  # noqa: SIM117
        with narrator.step("Look"):
            raise error


def test_waiting_ends_when_it_is_so(narrator: Narrator) -> None:
    answers = iter([1, 2, 3])
    narrator.wait_for("three", lambda: next(answers), 3, seconds=5)
    assert narrator.checks == 1


def test_waiting_has_an_end(narrator: Narrator) -> None:
    began = time.monotonic()
    with pytest.raises(DemoFailed, match="expected: 3\n  actual:   1"):
        narrator.wait_for("three", lambda: 1, 3, seconds=0.2)
    assert time.monotonic() - began < 5
