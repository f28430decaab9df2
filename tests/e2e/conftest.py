"""The stack that end-to-end tests break: two gateways, apart from the stack that others share."""

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def sturdy_stack() -> Iterator[Stack]:
    with running_stack("--gateways", "2") as running:
        yield running
