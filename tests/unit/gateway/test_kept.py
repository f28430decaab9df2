"""How long the ledger keeps what: the contract's times, not the code's."""

import pytest
from webhost_gateway.ledger.idempotency import ANSWERS_KEPT_MS, CLAIMS_KEPT_MS, DELEGATED, INVOKE

DAY_MS = 24 * 3600 * 1000


@pytest.mark.accept("7.7.kept")
def test_answers_are_kept_for_a_day_and_delegated_keys_for_thirteen_months() -> None:
    assert ANSWERS_KEPT_MS == DAY_MS
    assert CLAIMS_KEPT_MS[INVOKE] > ANSWERS_KEPT_MS
    assert CLAIMS_KEPT_MS[DELEGATED] >= (365 + 31) * DAY_MS
