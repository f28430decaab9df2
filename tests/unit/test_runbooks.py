"""Every command of a runbook is one of ours; every section that has some is followed by a test."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from webhost_cli.app import COMMANDS, load

from tests.support.runbook import RUNBOOKS, Block, is_shown, missing, sections

TESTS = Path(__file__).parents[1]
TO_LOOK_AT = (
    *("falling-behind.md", "full-streams.md", "not-ready.md"),
    *("silent-agents.md", "usage-feed.md"),
    # Of a Kubernetes cluster, which no test has.
    *("nats-and-postgres.md", "certificates.md"),
)
PAGES = sorted(page.name for page in RUNBOOKS.glob("*.md"))
_WEBHOST = re.compile(r"(?<![\w/.-])webhost ((?:[^|;&)`…\n]|\\\n)+)")
_FENCE = re.compile(r"```(\w*)\n.*?```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


def blocks() -> Iterator[tuple[str, str, Block]]:
    for page in PAGES:
        for section, found in sections(page).items():
            for block in found:
                yield page, section, block


def commands_of(page: str) -> list[str]:
    """The arguments of each `webhost …` of a page, in blocks and in its text."""
    text = (RUNBOOKS / page).read_text("utf-8")
    written = [command.text for found in sections(page).values() for b in found for command in b]
    inline = re.findall(r"`(webhost [^`…]+)`", re.sub(_FENCE, "", text))
    return [it.strip() for line in [*written, *inline] for it in _WEBHOST.findall(line)]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call, and what they hand to it."""
    assert words[0] in COMMANDS, words
    command, rest = load(words[0]), words[1:]
    while rest and (group := getattr(command, "commands", None)) is not None:
        assert rest[0] in group, (words, sorted(group))
        command, rest = group[rest[0]], rest[1:]
    return command, rest


@pytest.mark.accept("10.runbooks")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_runbook_exist_with_their_options(page: str) -> None:
    for text in commands_of(page):
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        command, rest = command_of(words)
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= known, (text, sorted(given - known))


def test_the_commands_in_blocks_are_whole() -> None:
    """Those are run as they are: each parses, with what it has to be given."""
    for page, section, block in blocks():
        for written in block:
            for text in _WEBHOST.findall(written.text):
                command, rest = command_of(shlex.split(text.replace("\\\n", " ")))
                try:
                    command.make_context("webhost", rest)
                except Exception as error:
                    pytest.fail(f"{page}, {section}: webhost {text}: {error}")


def followed(source: str) -> set[tuple[str, str]]:
    """The sections that a test's file opens: by calls of `Runbook(…)`, and of its fixture `follow`.

    A name stands for the texts that it is given in the same function, or in the file.
    """
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    everywhere = _texts(tree.body)
    # The page of a fixture that is given the section alone.
    page = [
        text
        for function in functions
        if function.name == "follow"
        for call in _openings(function)
        for text in _arguments(call, everywhere)
    ]
    named: set[tuple[str, str]] = set()
    for function in functions:
        known = everywhere | _texts([*ast.walk(function)])
        for call in _openings(function) if function.name != "follow" else ():
            words = _arguments(call, known)
            named |= {
                (page, section)
                for page in {*words} & {*PAGES} or {*page}
                for section in {*words} & {*sections(page)}
            }
    return named


def _openings(function: ast.FunctionDef) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id="Runbook" | "follow")):
                yield node
            case _:
                pass


def _texts(nodes: Sequence[ast.AST]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=given):
                found[name] = _constants(given)
            case ast.For(target=ast.Name(id=name), iter=given):
                found[name] = _constants(given)
            case _:
                pass
    return found


def _constants(node: ast.AST) -> list[str]:
    given = node.elts if isinstance(node, ast.Tuple) else [node]
    return [one.value for one in given if isinstance(one, ast.Constant) and type(one.value) is str]


def _arguments(call: ast.Call, known: dict[str, list[str]]) -> list[str]:
    return [
        text
        for given in call.args
        for text in (known.get(given.id, []) if isinstance(given, ast.Name) else _constants(given))
    ]


@pytest.mark.accept("10.runbooks")
def test_every_section_with_commands_is_followed_by_a_test() -> None:
    sources = [file.read_text("utf-8") for file in TESTS.glob("e2e/test_*.py")]
    opened = {pair for source in sources for pair in followed(source)}
    assert {(page, section) for page, section, _ in blocks()} == opened


def test_a_section_that_is_not_opened_is_not_followed() -> None:
    source = """
PAGE = "restore.md"
LOST = "EVENTS was lost"
def follow(stack):
    return lambda section: Runbook(stack, PAGE, section)
def test(follow, stack):
    unused = "All of NATS was lost"
    follow(LOST)
    for section in ("Steps", "nowhere"):
        Runbook(stack, "upgrade.md", section)
"""
    assert followed(source) == {("restore.md", "EVENTS was lost"), ("upgrade.md", "Steps")}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_to_be_typed_is_run_by_a_test(page: str) -> None:
    """It stands in `console`, but on pages of what to look at rather than of steps."""
    kinds = {*_FENCE.findall((RUNBOOKS / page).read_text("utf-8"))}
    others = {"sh", "json", "sql"} if page in TO_LOOK_AT else set[str]()
    assert kinds <= {"console"} | others


def test_the_index_names_every_page() -> None:
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    linked = {target for target, _ in _LINK.findall(index)}
    assert {*PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (RUNBOOKS / page).read_text("utf-8")
    for target, anchor in _LINK.findall(text):
        file = (RUNBOOKS / target).resolve() if target else RUNBOOKS / page
        assert file.exists(), target
        if anchor:
            assert anchor[1:] in anchors(file.read_text("utf-8")), f"{target}{anchor}"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize(
    ("line", "printed", "same"),
    [
        ("api: 12 on the stream, 0 missing", "api: 3 on the stream, 0 missing", True),
        ("api: 12 on the stream, 0 missing", "api: 3 on the stream, 4 missing", False),
        ("api: 12 on the stream", "api: 0 on the stream", False),
        ("12 calls", "1,204 calls", True),
        ("at 09:00:00", "at 17:45:12", True),
        ("gateway.routes EVENTS … 0 ok", "gateway.routes  EVENTS   17   0  ok", True),
        ("gateway.routes EVENTS … 0 ok", "gateway.routes  EVENTS   17   1  ok", False),
        ("all agree", "nearly all agree", False),
        ("… all agree", "3 calls: all agree", True),
        ("0 left", "0.5 left", False),
    ],
)
def test_what_a_page_shows_stands_for_what_is_printed(line: str, printed: str, same: bool) -> None:
    assert is_shown(line, printed) is same


def test_lines_are_looked_for_in_the_order_of_the_page() -> None:
    assert missing(["one", "three"], "one\ntwo\nthree\n") is None
    assert missing(["three", "one"], "one\ntwo\nthree\n") == "one"
    assert missing([], "anything") is None
