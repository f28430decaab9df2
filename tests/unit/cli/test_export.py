"""Exports: exact numbers in every format, and a file that is whole or not there."""

import csv
import errno
import io
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_cli import billing
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.export import Exported, Format, destination, writer_of
from webhost_cli.output import dollars
from webhost_contracts.usage_rpc import Counters

from tests.support.usage_feed import read_batch
from tests.unit.kit.test_usage_feed import ENTRY

ENTRIES = [ENTRY, replace(ENTRY, id="inv_2", invocation_id="inv_2", correction_of=None)]


def written(form: Format, count: int) -> str:
    file = io.StringIO()
    writer = writer_of(form, file)
    for entry in ENTRIES[:count]:
        writer.write(entry, "ins_1")
    writer.end()
    return file.getvalue()


@given(st.integers(-(10**40), 10**40))
def test_dollars_are_exact(picodollars: int) -> None:
    text = dollars(picodollars)
    whole, places = text.split(".")
    assert len(places) == 12
    assert int(whole + places) == picodollars
    assert "e" not in text.lower()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_format_says_the_same(count: int) -> None:
    rows = list(csv.DictReader(io.StringIO(written(Format.CSV, count))))
    lines = [json.loads(line) for line in written(Format.JSONL, count).splitlines()]
    events = read_batch(written(Format.CLOUDEVENTS, count))
    assert len(rows) == len(lines) == len(events) == count
    for row, line, event in zip(rows, lines, events, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in line.items()}
        data = event.get_data()
        assert (event.get_id(), event.get_subject()) == (line["id"], line["userId"])
        for name in ("requests", "computeMs", "periodKey", "agentId"):
            assert data[name] == line[name]
        assert Decimal(line["costUsd"]) == Decimal(data["costPicodollars"]).scaleb(-12)
        assert data.get("correctionOf") == line["correctionOf"]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "usage.csv"
    with destination(target) as file:
        file.write("begun")
        file.flush()
        assert not target.exists()
    assert target.read_text() == "begun"
    with pytest.raises(ZeroDivisionError), destination(target) as file:
        file.write(str(1 // 0))
    assert [path.name for path in tmp_path.iterdir()] == ["usage.csv"]
    assert target.read_text() == "begun"
    with pytest.raises(CommandError), destination(tmp_path / "missing" / "usage.csv"):
        pass


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-fifo").symlink_to("fifo")
    for name in ("fifo", "folder", "to-fifo"):
        with pytest.raises(CommandError, match="no regular file") as refused:
            destination(tmp_path / name).__enter__()
        assert refused.value.exit_code == ExitCode.USAGE
    assert (tmp_path / "fifo").is_fifo()


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "usage.csv", tmp_path / "link.csv"
    target.touch()
    link.symlink_to(target.name)
    with destination(link) as file:
        file.write("all of it")
    assert link.is_symlink()
    assert target.read_text() == "all of it"


@pytest.mark.parametrize("name", ["usage.csv", None])
def test_what_cannot_be_written_is_named(name: str | None, tmp_path: Path) -> None:
    path = None if name is None else tmp_path / name
    with (
        pytest.raises(
            CommandError, match=f"cannot write to .*{name or 'standard output'}: No space"
        ),
        destination(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BrokenPipeError), destination(path):
        raise BrokenPipeError


@pytest.mark.accept("8.export")
def test_what_does_not_come_to_usage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    counters = Counters(requests=2, compute_ms=70, cost_picodollars=5)
    exported = Exported(entries=2, counters=counters, settled=counters, waiting=1)
    billing.conclude("2026-11", exported)
    said = capsys.readouterr().err
    assert "2026-11: entries: 2, requests: 2, cost: 0.000000000005 USD; not settled yet: 1" in said
    with pytest.raises(
        CommandError, match=r"compute_ms 70 instead of 71.*billing verify.*--dry-run"
    ):
        billing.conclude("2026-11", replace(exported, settled=replace(counters, compute_ms=71)))


@pytest.mark.accept("8.export")
def test_every_column_is_what_its_name_says() -> None:
    counters = Counters(
        requests=1, llm_tokens=2, compute_ms=3, tool_calls=4, errors=5, cost_picodollars=6
    )
    entry = replace(
        ENTRY, counters=counters, invocation_id="inv_1", key_id="key_1", runtime_provider='a,"b"'
    )
    file, batch = io.StringIO(), io.StringIO()
    for form, where in ((Format.CSV, file), (Format.CLOUDEVENTS, batch)):
        writer = writer_of(form, where)
        writer.write(entry, "ins_1")
        writer.end()
    [row] = csv.DictReader(io.StringIO(file.getvalue()))
    assert row == {
        "id": "inv_1.1",
        "correctionOf": "inv_1",
        "userId": "usr_1",
        "agentId": "agt_1",
        "deploymentId": "dep_1",
        "runtimeProvider": 'a,"b"',
        "periodKey": "2026-11",
        "time": "2026-11-29T21:30:00.007Z",
        "requests": "1",
        "llmTokens": "2",
        "computeMs": "3",
        "toolCalls": "4",
        "errors": "5",
        "costUsd": "0.000000000006",
        "source": "both",
        "invocationId": "inv_1",
        "keyId": "key_1",
    }
    [event] = read_batch(batch.getvalue())
    told = {name: str(value) for name, value in event.get_data().items()}
    assert told.pop("costPicodollars") == "6"
    assert told == {name: row[name] for name in told}
    assert told.keys() == row.keys() - {"id", "userId", "time", "costUsd"}


@pytest.mark.parametrize("name", Counters.__struct_fields__)
def test_each_counter_has_to_come_to_usage(name: str) -> None:
    counters = Counters(requests=2, llm_tokens=1)
    more = replace(counters, **{name: getattr(counters, name) + 1})
    exported = Exported(entries=2, counters=counters, settled=more, waiting=0)
    with pytest.raises(CommandError, match=f"{name} "):
        billing.conclude("2026-11", exported)
