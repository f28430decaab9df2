"""The documents name modules that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KIT = ROOT / "libs/kit/src/webhost_kit"
CODE = ("libs", "services", "cli", "local", "worker", "bench", "tests")

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("services/*/README.md")),
    ROOT / "local/README.md",
]
_FILE = re.compile(r"`([\w/-]+\.py)`")
_KIT_MODULE = re.compile(r"`kit\.([\w.]+)`")


def code_of(document: Path) -> list[Path]:
    """The files that a document speaks of: those of its own folder, or all."""
    own = document.parent
    folders = [own] if (own / "src").is_dir() else [ROOT / name for name in CODE]
    return [file for folder in folders for file in folder.rglob("*.py")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_modules_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    files = [f"/{file.relative_to(ROOT)}" for file in code_of(document)]
    unknown = [
        name for name in _FILE.findall(text) if not any(file.endswith(f"/{name}") for file in files)
    ]
    unknown += [
        f"kit.{name}"
        for name in _KIT_MODULE.findall(text)
        if not (KIT / name.replace(".", "/")).with_suffix(".py").exists()
        and not (KIT / name.replace(".", "/")).is_dir()
    ]
    assert unknown == []


def test_there_is_something_to_look_at() -> None:
    """A pattern that finds nothing would find everything in order."""
    text = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    assert len(_FILE.findall(text)) > 30
    assert len(_KIT_MODULE.findall(text)) > 3
