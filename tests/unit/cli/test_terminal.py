"""What others wrote is shown, and never obeyed, by the terminal of whoever reads it."""

import ast
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import webhost_cli
from webhost_cli import __main__, invoke, output
from webhost_cli.demo.narrator import Narrator
from webhost_cli.errors import CommandError
from webhost_local.logview import LogView
from webhost_local.terminal import plain, plain_json, plain_line

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\x7f\rb"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\x7f\x0db"
OBEYED = set(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F])) | set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
)


@pytest.mark.accept("6.D4")
def test_everything_that_is_obeyed_is_written_out() -> None:
    assert plain(HOSTILE) == SHOWN
    everything = "".join(sorted(OBEYED))
    assert set(plain(everything)) & OBEYED == {"\t", "\n"}
    assert not set(plain_line(everything)) & OBEYED
    assert plain("Ünï — 👍\r\n\ttwo lines") == "Ünï — 👍\n\ttwo lines"


def an_answer(capsys: pytest.CaptureFixture[str]) -> str:
    events = [
        ("meta", {"sessionId": HOSTILE}),
        ("delta", {"text": HOSTILE}),
        ("usage", {HOSTILE: 1}),
        ("done", {}),
    ]
    stream = (SimpleNamespace(id="1", event=e, data=json.dumps(d)) for e, d in events)
    invoke._stream(iter(stream), as_json=False)  # pyright: ignore
    api = SimpleNamespace(
        post=lambda *_, **__: {"output": {"text": HOSTILE}, "sessionId": HOSTILE, "usage": {}}
    )
    invoke.invoke(api, "agt_" + "0" * 26, "hello")  # pyright: ignore
    return "".join(capsys.readouterr())


def an_error(capsys: pytest.CaptureFixture[str]) -> str:
    for as_json in (False, True):
        with pytest.raises(SystemExit):
            __main__._end(CommandError(HOSTILE), as_json)  # pyright: ignore
    return capsys.readouterr().err


def a_table(capsys: pytest.CaptureFixture[str]) -> str:
    output.print_table(("name",), [(f"{HOSTILE}\na second row",)])
    output.print_fields([("name", HOSTILE)])
    output.aside(HOSTILE)
    return "".join(capsys.readouterr())


def a_log(_: pytest.CaptureFixture[str]) -> str:
    written = io.StringIO()
    log = LogView(written, ["edge"])
    log.line("edge", HOSTILE)
    log.close()
    return written.getvalue()


def a_demo(capsys: pytest.CaptureFixture[str]) -> str:
    Narrator(output.console()).got("200", {"text": HOSTILE})
    return capsys.readouterr().out


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("shown", [an_answer, an_error, a_table, a_log, a_demo])
def test_nothing_that_is_shown_is_obeyed(
    shown: Callable[[pytest.CaptureFixture[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys)
    assert "gnp.exe" in text
    assert set(text) & OBEYED <= {"\n"}


@pytest.mark.accept("6.D4")
def test_json_is_exact_and_obeyed_by_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value: dict[str, Any] = {HOSTILE: [HOSTILE, "".join(sorted(OBEYED)), "\\u202e", None]}
    output.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert set(printed) & OBEYED == {"\n"}
    assert json.loads(plain_json(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.accept("6.D4")
def test_everything_that_a_command_shows_passes_one_place() -> None:
    [root] = webhost_cli.__path__
    written: set[str] = set()
    for file in Path(root).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and _writes(ast.unparse(node.func)):
                written.add(f"{file.relative_to(root)}: {ast.unparse(node.func)}")
    assert written == {
        "__main__.py: sys.stderr.write",
        "output.py: typer.echo",
        "output.py: out.print",
        "output.py: errors().print",
        "demo/narrator.py: self._console.print",
    }


def _writes(called: str) -> bool:
    return called in ("print", "typer.echo", "typer.secho", "click.echo") or called.endswith(
        (".print", "stdout.write", "stderr.write")
    )
