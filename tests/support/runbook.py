"""Runbooks, followed as they are written: the commands of a page, run in its order.

A block of `console` holds commands, each behind `$ `, and below a command what it prints, or the
lines of that which matter. `…` stands for any text, a number for any number but 0, which is
itself. A command whose output shows an error of ours (`webhost: …`) ends with one, and no other
does. Words in capitals that a test names are placeholders: it says what is put in their place.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType

from tests.support.stack import Stack, environment

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs/runbooks"
COMMAND_S = 120
_AGAIN_S = 0.5
_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,2} (.+)$", re.MULTILINE)
_PART = re.compile(r"…|\d[\d,.]*\d|\d|\s+|[^…\d\s]+")


@dataclass(frozen=True)
class Command:
    """A command as it is written, and the lines that the page shows of what it prints."""

    text: str
    shown: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        return any(line.startswith("webhost: ") for line in self.shown)


Block = tuple[Command, ...]
NONE: Mapping[str, str] = MappingProxyType({})


def sections(page: str) -> dict[str, list[Block]]:
    """The blocks of a page by the heading above them, where there are any."""
    text = (RUNBOOKS / page).read_text("utf-8")
    headings = list(_HEADING.finditer(_without_blocks(text)))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    found = {
        heading[1]: [_block(match[1]) for match in _BLOCK.finditer(text, heading.end(), end)]
        for heading, end in zip(headings, ends, strict=True)
    }
    return {heading: blocks for heading, blocks in found.items() if blocks}


def _without_blocks(text: str) -> str:
    """The text, with what is in blocks blanked: a comment of the shell's is no heading."""
    return re.sub(r"```.*?```", lambda it: re.sub(r"[^\n]", " ", it[0]), text, flags=re.DOTALL)


def _block(text: str) -> Block:
    commands: list[Command] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif commands and commands[-1].text.endswith("\\"):
            commands[-1] = Command(f"{commands[-1].text}\n{line}")
        else:
            last = commands.pop()
            commands.append(Command(last.text, (*last.shown, line)))
    return tuple(commands)


def is_shown(line: str, printed: str) -> bool:
    """Whether this is a line that the page shows."""
    return re.fullmatch("".join(map(_pattern, _PART.findall(line.strip()))), printed) is not None


def _pattern(part: str) -> str:
    if part == "…":
        return ".*"
    if part.isspace():
        return r"\s+"
    if part[0].isdigit() and part != "0":
        return r"(?!0\b(?![.,]))\d[\d,.]*"
    return re.escape(part)


def missing(shown: Sequence[str], printed: str) -> str | None:
    """The first line of a page that was not printed, in the page's order."""
    lines = iter(line.strip() for line in printed.splitlines())
    return next((one for one in shown if not any(is_shown(one, line) for line in lines)), None)


class NotAsWritten(AssertionError):
    """A command did not do what its page says."""


@dataclass
class Runbook:
    """A section of a page, followed on a stack. All of it is, once the block ends."""

    stack: Stack
    page: str
    section: str
    directory: Path
    """Where its commands run: what they write is there."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    _next: int = 0

    def __enter__(self) -> "Runbook":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        left = self._blocks[self._next :]
        assert kind is not None or not left, f"{self.page}, {self.section}: not followed: {left}"

    def step(self, placeholders: Mapping[str, str] = NONE, *, within: float = 0) -> str:
        """Run the next block; return what its last command printed.

        `within` some seconds it may be run again, until all is as the page shows it. For commands
        that are to be given with what an installation calls things, name the placeholders.
        """
        block = self._blocks[self._next]
        ends_at = time.monotonic() + within
        while True:
            try:
                printed = [self._run(command, placeholders) for command in block]
            except NotAsWritten:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(_AGAIN_S)
            else:
                self._next += 1
                return printed[-1]

    def rest(self, placeholders: Mapping[str, str] = NONE, *, within: float = 0) -> None:
        """Run the blocks that are left, each as `step` does."""
        while self._next < len(self._blocks):
            self.step(placeholders, within=within)

    @property
    def _blocks(self) -> list[Block]:
        return sections(self.page)[self.section]

    def _run(self, command: Command, placeholders: Mapping[str, str]) -> str:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _filled(command.text, placeholders)],
            env={
                **environment(),
                **self.environment,
                "WEBHOST_DATA_DIR": str(self.stack.data_dir),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        shown = [_filled(line, placeholders) for line in command.shown]
        said = f"{self.page}, {self.section}: $ {command.text}\n{ended.stdout}"
        if (ended.returncode != 0) is not command.fails:
            raise NotAsWritten(f"{said}\nended with {ended.returncode}")
        if (line := missing(shown, ended.stdout)) is not None:
            raise NotAsWritten(f"{said}\nlacks the line: {line}")
        return ended.stdout


def _filled(text: str, placeholders: Mapping[str, str]) -> str:
    for name, value in placeholders.items():
        text = re.sub(rf"\b{re.escape(name)}\b", lambda _, value=value: value, text)
    return text
