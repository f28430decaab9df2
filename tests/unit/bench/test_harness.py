"""How runs are ordered, and what figures say of them."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from bench.__main__ import BENCHES, chosen, deliver, exit_code
from bench.harness import Aim, Figure, interleave
from bench.report import markdown


def figure(**fields: object) -> Figure:
    defaults = {
        "name": "n",
        "unit": "/s",
        "path": "p",
        "limit_path": "l",
        "measured": [10.0, 30.0, 20.0],
        "limit": [100.0, 50.0, 80.0],
    }
    return Figure(**{**defaults, **fields})  # type: ignore[arg-type]


def test_every_second_round_goes_backwards():
    order: list[str] = []
    measured = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    results = interleave(3, measured, lambda _: None)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(series) for name, series in results.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_the_runs_own_ratios():
    # 0.1, 0.6, 0.25 in the first case, 0.1, 0.3, 1.0 in the second.
    assert figure().value == 0.25
    assert figure(limit=[100.0, 100.0, 20.0]).value == 0.3


def test_difference_and_measured_are_read_in_their_own_unit():
    assert figure(reading="difference").value == -60.0
    assert figure(reading="measured").value == 20.0


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (None, None),
        (Aim("at least", 0.25), True),
        (Aim("at least", 0.26), False),
        (Aim("at most", 0.25), True),
        (Aim("at most", 0.24), False),
    ],
)
def test_an_aim_is_met_or_not(aim: Aim | None, met: bool | None):
    assert figure(aim=aim).met is met


def test_a_run_without_its_limit_is_refused():
    with pytest.raises(ValueError, match="zip"):
        _ = figure(limit=[1.0]).ratio


def test_a_missed_aim_ends_with_1_unless_it_is_only_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    met, missed = figure(aim=Aim("at least", 0.2)), figure(name="slow", aim=Aim("at least", 0.7))
    assert exit_code([met], {}, report=False) == 0
    assert exit_code([met, missed], {}, report=False) == 1
    assert capsys.readouterr().err == "bench: missed: slow: ratio 0.25, at least 0.7\n"
    assert exit_code([met, missed], {}, report=True) == 0
    assert exit_code([met], {"fold": "did not start"}, report=True) == 1


def test_the_table_for_the_documents() -> None:
    row = "| slow | **20** /s (10, 30, 20) | **80** /s (100, 50, 80) | 0.25 |"
    lines = markdown([figure(name="slow", aim=Aim("at least", 0.7))]).splitlines()
    assert lines[2] == f"{row} ratio 0.25, at least 0.7 | **not met** |"


def test_figures_of_another_kind_have_a_table_of_their_own() -> None:
    tables = markdown([figure(), figure(name="b", table="other"), figure(name="c")]).split("\n\n")
    assert [len(table.splitlines()) for table in tables] == [4, 3]


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({}, {"soak", "peers", "footprint"}),
        ({"short": True}, {"soak", "peers", "footprint", "variants"}),
        ({"full": True}, {"peers", "footprint"}),
        ({"peers": True}, {"soak", "footprint"}),
    ],
)
def test_what_takes_long_or_installs_something_is_asked_for(
    asked: dict[str, bool], left_out: set[str]
) -> None:
    arguments = {"names": [], "full": False, "short": False, "peers": False}
    assert set(chosen(Namespace(**(arguments | asked)))) == set(BENCHES) - left_out
    named = arguments | {"names": ["gateway", "soak"]} | asked
    assert chosen(Namespace(**named))[:2] == ["gateway", "soak"]


@pytest.mark.parametrize("markdown", [False, True])
def test_the_file_is_written_whatever_is_printed(
    markdown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "result.json"
    deliver(Namespace(json=str(file), markdown=markdown), [figure()], {}, [], {})
    assert [one["name"] for one in json.loads(file.read_text())["figures"]] == ["n"]
    assert capsys.readouterr().out
