"""What runs in CI is pinned, and may do no more than read the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_by_its_digest(file: Path) -> None:
    used = re.findall(r"uses:\s*(.+)", file.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_job_may_only_read_and_keeps_no_token(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"^ *permissions:.*(?:\n +.*)*", text, re.MULTILINE) == [
        "permissions:\n  contents: read"
    ]
    checkouts = text.count("uses: actions/checkout@")
    assert text.count("persist-credentials: false") == checkouts > 0


@pytest.mark.accept("6.D4")
def test_dependencies_are_audited() -> None:
    assert any("run: make audit" in file.read_text() for file in WORKFLOWS)
