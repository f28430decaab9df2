"""The manifest of requirements and the tests agree, both ways."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests", "worker/tests")


def required() -> dict[str, str]:
    manifest = tomllib.loads((ROOT / "tests" / "requirements.toml").read_text())
    entries = [entry for section in manifest.values() for entry in section.items()]
    found = dict(entries)
    assert len(found) == len(entries), "an id is in two sections"
    return found


def shown() -> dict[str, list[str]]:
    """Every id that a test's marker names, with the files where."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("test_*.py")):
            for requirement in _marked(ast.parse(file.read_text())):
                found[requirement].append(str(file.relative_to(ROOT)))
    return found


def _marked(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="accept", value=ast.Attribute(attr="mark")), args=arguments
            ):
                yield from (ast.literal_eval(argument) for argument in arguments)
            case _:
                pass


def test_every_marker_names_a_requirement() -> None:
    known = required()
    assert {name: files for name, files in shown().items() if name not in known} == {}


def test_every_requirement_has_a_test() -> None:
    there = shown()
    assert {name: said for name, said in required().items() if name not in there} == {}
