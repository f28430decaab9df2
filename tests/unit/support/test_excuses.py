"""What counts as a whole history, and what excuses that something is missing."""

from dataclasses import replace

import httpx
import pytest

from tests.support.faults import Death
from tests.support.history import Recorded, is_unbroken
from tests.support.retrying import may_be_retried

FACTS = [Recorded("agt_1", version, "agent.updated.v1", 0, {}) for version in (1, 2, 3)]
STATED = {("agent", "agt_1", version) for version in (1, 2, 3)}
AT_MS = 1_000_000
ONE_OF_THREE = Death(frozenset({"nats-2"}), AT_MS, AT_MS + 5_000, refused=0)


def test_a_history_has_every_fact_that_was_stated() -> None:
    assert is_unbroken(FACTS, STATED)
    assert is_unbroken([*FACTS, FACTS[0]], STATED)
    assert is_unbroken(FACTS, STATED - {("agent", "agt_1", 3)})


@pytest.mark.parametrize("lost", range(3))
def test_one_that_lost_a_fact_is_broken(lost: int) -> None:
    assert not is_unbroken(FACTS[:lost] + FACTS[lost + 1 :], STATED)


def test_one_without_facts_is_broken() -> None:
    assert not is_unbroken([], STATED)
    assert not is_unbroken([], set())


def test_two_facts_of_one_version_are_never_right() -> None:
    with pytest.raises(AssertionError, match="two facts are version 1"):
        is_unbroken([*FACTS, replace(FACTS[0], data={"name": "x"})], STATED)


def test_a_cluster_that_refused_nothing_loses_no_report() -> None:
    assert not ONE_OF_THREE.may_lose_report(AT_MS)
    assert replace(ONE_OF_THREE, refused=2).may_lose_report(AT_MS)
    assert not replace(ONE_OF_THREE, refused=2).may_lose_report(AT_MS + 6_000)
    assert Death(frozenset({"nats"}), AT_MS, AT_MS + 5_000).may_lose_report(AT_MS)


@pytest.mark.parametrize(
    ("status", "retryable", "strict", "again"),
    [
        (503, True, True, True),
        (503, False, True, False),
        (502, True, True, False),
        (502, True, False, True),
        (500, True, True, False),
        (500, True, False, False),
    ],
)
def test_what_may_be_retried(status: int, *, retryable: bool, strict: bool, again: bool) -> None:
    answer = httpx.Response(status, json={"error": {"retryable": retryable}})
    assert may_be_retried(answer, strict=strict) is again
