"""The stack for fault tests: two gateways, separate from the stack that other tests share."""

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def sturdy_stack() -> Iterator[Stack]:
    with running_stack("--replicas", "gateway=2") as running:
        yield running
