"""Who is charged with a registration, and who is not."""

from contextlib import suppress

import pytest
from webhost_api.rate_limits import RateLimits, Rates
from webhost_kit.errors import RateLimited

RATES = Rates(
    reads=1,
    writes=1,
    deploys=1,
    registrations=3,
    registrations_per_address=2,
    unknown_keys_per_address=2,
)


@pytest.mark.accept("6.C1")
def test_one_address_cannot_use_up_an_issuers_registrations() -> None:
    limits = RateLimits(RATES)
    for _ in range(10):
        with suppress(RateLimited):
            limits.acquire_registration("issuer", "192.0.2.1")
    limits.acquire_registration("issuer", "192.0.2.2")
    with pytest.raises(RateLimited):
        limits.acquire_registration("issuer", "192.0.2.3")
    limits.acquire_registration("another issuer", "192.0.2.3")


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize("cost", ["reads", "writes", "deploys"])
def test_each_class_of_cost_has_a_limit_of_its_own_for_each_user(cost: str) -> None:
    limits = RateLimits(RATES)
    limits.acquire(cost, "usr_1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RateLimited):
        limits.acquire(cost, "usr_1")  # pyright: ignore[reportArgumentType]
    limits.acquire(cost, "usr_2")  # pyright: ignore[reportArgumentType]
