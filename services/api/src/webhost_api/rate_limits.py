"""What one user, one issuer or one address may ask of this api.

Guarantees: a request over a limit costs no more than the check of its token; nothing of it is
read, and nothing is written.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Literal

from webhost_kit.http.rate_limiter import RateLimiter

Cost = Literal["reads", "writes", "deploys"]
HOUR_S = 3600
CHECKOUTS_PER_HOUR = 20
"""Of one user. Each is a call of the payment provider's, which allows all of us 300 a minute, and a
fact that is kept for ever."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The first three: requests of a user per minute; then new users per hour; the last: API keys
    per minute that were not good before.
    """

    reads: int
    writes: int
    deploys: int
    registrations: int
    registrations_per_address: int
    unknown_keys_per_address: int


class RateLimits:
    """One limiter for each class of cost, two for registrations, one each for unknown API keys and
    for what is no operator's token.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._per_user = {
            "reads": (RateLimiter("reads"), rates.reads),
            "writes": (RateLimiter("writes"), rates.writes),
            "deploys": (RateLimiter("deploys"), rates.deploys),
        }
        self._per_issuer = RateLimiter("registrations", window_s=HOUR_S)
        self._per_address = RateLimiter("registrations-per-address", window_s=HOUR_S)
        self._unknown_keys = RateLimiter("unknown-keys")
        self._unknown_operators = RateLimiter("unknown-operators")
        self._checkouts = RateLimiter("checkouts", window_s=HOUR_S)

    def acquire(self, cost: Cost, user_id: str) -> None:
        """Take one of a user's requests. Raises RateLimited."""
        limiter, limit = self._per_user[cost]
        limiter.acquire(user_id, limit, monotonic())

    def acquire_registration(self, issuer: str, address: str) -> None:
        """Take one registration. Raises RateLimited.

        The address comes first: one that asks too often uses up nothing of the issuer's.
        """
        now_s = monotonic()
        self._per_address.acquire(address, self._rates.registrations_per_address, now_s)
        self._per_issuer.acquire(issuer, self._rates.registrations, now_s)

    def acquire_unknown_key(self, address: str) -> None:
        """Take one look-up of a key that may be made up. Raises RateLimited."""
        self._unknown_keys.acquire(address, self._rates.unknown_keys_per_address, monotonic())

    def acquire_checkout(self, user_id: str) -> None:
        """Take one of a user's checkouts. Raises RateLimited."""
        self._checkouts.acquire(user_id, CHECKOUTS_PER_HOUR, monotonic())

    def acquire_unknown_operator(self, address: str) -> None:
        """Take one request with a token that is no operator's. Raises RateLimited."""
        limit = self._rates.unknown_keys_per_address
        self._unknown_operators.acquire(address, limit, monotonic())
