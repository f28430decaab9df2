"""Chance that can be repeated: WEBHOST_TEST_SEED, else CI's run number, else a new one; printed.

Each test gets a generator of its own, so that a moment depends on the seed and the test's name,
not on which tests ran before.
"""

import os
import random
import secrets

import pytest

VARIABLE = "WEBHOST_TEST_SEED"


def choose() -> str:
    """Fix the seed for this run and the processes that it starts; return it."""
    run = os.environ.get("CI_RUN_NUMBER") or os.environ.get("GITHUB_RUN_NUMBER")
    return os.environ.setdefault(VARIABLE, run or str(secrets.randbelow(1_000_000)))


def pytest_report_header() -> str:
    return f"{VARIABLE}={choose()}"


def pytest_configure() -> None:
    choose()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Randomness of this test alone."""
    print(f"{VARIABLE}={choose()}")
    return random.Random(f"{choose()} {request.node.nodeid}")
