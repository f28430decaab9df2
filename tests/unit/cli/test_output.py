"""What people and programs read."""

import io
import json
import sys

import pytest
from webhost_cli import billing, output, waiting
from webhost_contracts.rpc import SetTierReply
from webhost_contracts.usage_rpc import Counters, Difference, RebuildProgress
from webhost_local.state import RunningProcess


def test_json_is_the_answer_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"agents": [{"name": "Ünï [red]", "activeDeploymentId": None}], "nextCursor": None}
    output.print_json(answer)
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        (
            RebuildProgress(processed=0, total=0, done=True),
            {
                "processed": 0,
                "total": 0,
                "done": True,
                "swapped": False,
                "differences": [],
                "refused": None,
                "resumed": 0,
                "sealed": [],
                "leftOut": 0,
                "heldBackMs": 0,
            },
        ),
        (SetTierReply(tier="pro"), {"tier": "pro", "refused": None}),
        (
            {"processes": [RunningProcess("nats", 7)]},
            {"processes": [{"name": "nats", "pid": 7, "url": None, "opsUrl": None}]},
        ),
    ],
)
def test_json_keeps_every_field_of_a_message(
    message: object, printed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_json(message)
    assert json.loads(capsys.readouterr().out) == printed


def test_a_piped_table_is_neither_cut_nor_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]" + "x" * 120
    output.print_table(("id", "name"), [("agt_1", name), ("agt_2", None)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "name"]
    assert first.split() == ["agt_1", name]
    assert second.split() == ["agt_2"]


def test_a_piped_table_is_not_broken_into_lines_and_ends_without_blanks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "why " * 200
    output.print_table(("id", "error"), [("dep_1", long), ("dep_2", None)])
    output.print_fields([("error", long)])
    assert capsys.readouterr().out.splitlines() == [
        "id     error",
        f"dep_1  {long.rstrip()}",
        "dep_2",
        f"error  {long.rstrip()}",
    ]


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_narrow_terminal_only_one_column_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    first, second, at = f"dep_{'1' * 26}", f"agt_{'2' * 26}", "2026-11-29 19:27:30"
    for columns, folds in ((("id", "of", "at", "error"), None), (("error", "id", "of"), "error")):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        cells = {"id": first, "of": second, "at": at, "error": "one two " * 10}
        output.print_table(columns, [[cells[name] for name in columns]], folds=folds)
        lines = terminal.getvalue().splitlines()
        whole = [cells[name] for name in columns if name != "error"]
        assert all(cell in lines[1] for cell in whole)
        assert len(lines) > 2
        assert not any(cell[:8] in line for line in lines[2:] for cell in whole)


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields([("id", "agt_1"), ("description", None), ("version", 0)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["id", "agt_1"], ["version", "0"]]


def test_a_list_with_more_says_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_more({"nextCursor": "abc"})
    output.print_more({"nextCursor": None})
    captured = capsys.readouterr()
    assert captured.err == "more: --cursor abc\n"
    assert captured.out == ""


def test_a_difference_names_the_counters_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    difference = Difference(
        user_id="usr_1",
        period_key="2026-11",
        runtime_provider="cloudflare",
        live=Counters(requests=3, llm_tokens=5),
        rebuilt=Counters(requests=2, llm_tokens=5),
    )
    result = RebuildProgress(
        processed=2, total=2, done=True, differences=(difference,), held_back_ms=7
    )
    billing._show(result)
    _, row, summary = capsys.readouterr().out.splitlines()
    assert row.split() == ["usr_1", "2026-11", "cloudflare", "requests", "3", "2"]
    found = "2 messages replayed: rows that differ: 1; nothing was changed"
    assert summary == f"{found}; live usage waited for 7 ms"


def test_a_failed_deployment_names_step_endpoint_and_message() -> None:
    deployment = {
        "id": "dep_1",
        "version": 2,
        "status": "failed",
        "errorMessage": "It failed at upload.",
        "error": {"details": {"step": "upload", "endpoint": "PUT /x", "providerCode": None}},
    }
    assert waiting.failure(deployment) == (
        "dep_1 (version 2) failed: It failed at upload.\n  step: upload\n  endpoint: PUT /x"
    )
    assert waiting.failure(deployment | {"status": "active"}) is None
