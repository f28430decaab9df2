"""How long the api keeps what: the contract's times, not the code's."""

import pytest
from webhost_api import idempotency, uploads

DAY_MS = 24 * 3600 * 1000


@pytest.mark.accept("2.idempotency")
def test_answers_are_kept_for_a_day() -> None:
    assert idempotency.KEPT_MS == DAY_MS


@pytest.mark.accept("7.4.uploads.kept")
def test_an_upload_can_be_deployed_for_a_day() -> None:
    assert uploads.KEPT_MS == DAY_MS
