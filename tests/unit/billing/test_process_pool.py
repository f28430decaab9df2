"""A rebuild starts no more processes than it may use."""

import os
from pathlib import Path

import pytest
from webhost_billing.rebuild.process_pool import processors


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_the_control_groups_quota_counts(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    assert processors(file) == expected


def test_without_a_quota_the_affinity_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 5, 7})
    assert processors(tmp_path / "none") == 3
