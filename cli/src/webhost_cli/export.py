"""Reads a period's settled usage from billing, page by page, and writes it to a file."""

import csv
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

import msgspec
from nats.aio.client import Client
from webhost_contracts import subjects
from webhost_contracts.usage_feed import (
    MOST,
    FeedEntry,
    Refusal,
    UsageExportReply,
    UsageExportRequest,
    UsageFeedReply,
    UsageFeedRequest,
    cloud_event,
    time_text,
)
from webhost_contracts.usage_rpc import Counters

from webhost_cli import bus, output
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.progress import Show

TIMEOUT_S = 20.0


class Format(StrEnum):
    """How entries are written."""

    CSV = "csv"
    JSONL = "jsonl"
    CLOUDEVENTS = "cloudevents"


class Writer(Protocol):
    """Writes entries in one format."""

    def write(self, entry: FeedEntry, source: str) -> None: ...
    def end(self) -> None: ...


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries there were, what they come to, and what billing says that is."""

    entries: int
    counters: Counters
    settled: Counters
    waiting: int


async def export(client: Client, period: str, writer: Writer, show: Show) -> Exported:
    """Write every entry of a period. Raises CommandError where billing refuses."""
    begin = UsageExportRequest(period_key=period)
    expected = await bus.ask(
        client, subjects.RPC_USAGE_EXPORT, begin, UsageExportReply, timeout_s=TIMEOUT_S, reads=True
    )
    _require(expected.refused)
    counters, entries, read, more = Counters(), 0, 0, True
    cursor: str | None = None
    while more:
        request = UsageFeedRequest(after=cursor, until=expected.end, limit=MOST, period_key=period)
        page = await bus.ask(
            client,
            subjects.RPC_USAGE_FEED,
            request,
            UsageFeedReply,
            timeout_s=TIMEOUT_S,
            reads=True,
        )
        _require(page.refused)
        for entry in page.entries:
            writer.write(entry, page.source)
            counters = _sum(counters, entry.counters)
        entries += len(page.entries)
        read += page.read
        show(read, expected.entries)
        cursor, more = page.next, page.more
    writer.end()
    return Exported(
        entries=entries, counters=counters, settled=expected.settled, waiting=expected.waiting
    )


@contextmanager
def destination(path: Path | None) -> Generator[TextIO]:
    """Yield what to write to: standard output, or a file that appears when it is whole.

    A link stays one: the file that it leads to is written. Raises CommandError for what is no
    regular file, and where nothing can be written.
    """
    with output.writing(output.STANDARD_OUTPUT if path is None else path):
        if path is None:
            yield sys.stdout
            sys.stdout.flush()
            return
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise CommandError(f"cannot write to {path}: it is no regular file", ExitCode.USAGE)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def writer_of(form: Format, file: TextIO) -> Writer:
    """Return what writes this format to a file."""
    return {Format.CSV: _Csv, Format.JSONL: _JsonLines, Format.CLOUDEVENTS: _CloudEvents}[form](
        file
    )


class _Csv:
    """One line for each entry, behind the names of the columns."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._begun = False

    def write(self, entry: FeedEntry, source: str) -> None:
        self._begin()
        self._writer.writerow(_values(entry))

    def end(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._writer.writerow(_COLUMNS)
            self._begun = True


class _JsonLines:
    """One object a line, with the same names."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, entry: FeedEntry, source: str) -> None:
        line = dict(zip(_COLUMNS, _values(entry), strict=True))
        self._file.write(msgspec.json.encode(line).decode() + "\n")

    def end(self) -> None:
        pass


class _CloudEvents:
    """A JSON batch, one event a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._before = "["

    def write(self, entry: FeedEntry, source: str) -> None:
        event = msgspec.json.encode(cloud_event(entry, source)).decode()
        self._file.write(f"{self._before}\n{event}")
        self._before = ","

    def end(self) -> None:
        self._file.write("[]\n" if self._before == "[" else "\n]\n")


_COLUMNS = (
    *("id", "correctionOf", "userId", "agentId", "deploymentId", "runtimeProvider"),
    *("periodKey", "time", "requests", "llmTokens", "computeMs", "toolCalls", "errors"),
    *("costUsd", "source", "invocationId", "keyId"),
)


def _values(entry: FeedEntry) -> tuple[str | int | None, ...]:
    counters = entry.counters
    return (
        *(entry.id, entry.correction_of, entry.user_id, entry.agent_id, entry.deployment_id),
        *(entry.runtime_provider, entry.period_key, time_text(entry.at_ms)),
        *(counters.requests, counters.llm_tokens, counters.compute_ms, counters.tool_calls),
        *(counters.errors, output.dollars(counters.cost_picodollars)),
        *(entry.source, entry.invocation_id, entry.key_id),
    )


def _require(refused: Refusal | None) -> None:
    if refused is not None:
        raise CommandError(f"refused: {refused.message}")


def _sum(left: Counters, right: Counters) -> Counters:
    return Counters(
        **{name: getattr(left, name) + getattr(right, name) for name in Counters.__struct_fields__}
    )
