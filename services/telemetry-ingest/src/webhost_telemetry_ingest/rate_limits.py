"""How much deployments and users may report, and how often an address may fail to authenticate.

Guarantees: what a stolen key or no key at all sends takes nothing of what others may send.
Before the signature is verified only failures count (bad credentials, and bodies that did not come
in whole): by address, and apart for each deployment that is known, since on Cloudflare many
tenants' Workers share an address. (So whoever fails often can tell whether an id is known, but ids
cannot be guessed.)
After it, a deployment has REPORTS_PER_CALL times the calls that its user's tier allows, and the
user twice that: one deployment's key cannot use up the others'. An honest deployment is never
refused: what ends in a minute are at most that minute's calls, the burst before them, and those
that ran already; tiers let far fewer run at once than a minute's.
The same again by the period, of the calls that the tier allows in one: reports are kept for more
than a year, so a key that was stolen must not fill the stream. This bound is remembered by each
process as long as it runs; a tier without a limit of calls has none.
"""

from collections.abc import Mapping
from time import monotonic

from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_kit.http.rate_limiter import RateLimiter

from webhost_telemetry_ingest.model import Deployments

REPORTS_PER_CALL = 3
"""A Worker tries to deliver one at most so often."""
PERIOD_S = 31 * 24 * 3600


class RateLimits:
    """The limits of this process. Those that refuse raise RateLimited."""

    def __init__(
        self,
        deployments: Deployments,
        tiers: Mapping[str, Entitlements],
        failures_per_minute: int,
    ) -> None:
        self._deployments = deployments
        self._tiers = tiers
        self._most_failures = failures_per_minute
        self._failures = RateLimiter("failures")
        self._of_deployment = RateLimiter("reports")
        self._of_user = RateLimiter("reports-of-user")
        self._of_deployments_period = RateLimiter("reports-of-period", window_s=PERIOD_S)
        self._of_users_period = RateLimiter("reports-of-users-period", window_s=PERIOD_S)

    def check_failures(self, address: str, deployment_id: str | None) -> None:
        """Refuse where this address has failed too often, in this deployment's name."""
        self._failures.check(self._key(address, deployment_id), self._most_failures, monotonic())

    def count_failure(self, address: str, deployment_id: str | None) -> None:
        """Take note of missing or wrong credentials, or of a body that was not completed."""
        self._failures.charge(self._key(address, deployment_id), self._most_failures, monotonic())

    def acquire_report(self, deployment_id: str, user_id: str) -> None:
        """Take one of a deployment's reports; its signature is verified."""
        now_s = monotonic()
        tier = self._deployments.tier_of(user_id)
        entitlements = self._tiers[known_tier(self._tiers, tier)]
        limit = REPORTS_PER_CALL * entitlements.requests_per_minute
        self._of_deployment.acquire(deployment_id, limit, now_s)
        self._of_user.acquire(user_id, 2 * limit, now_s)
        if entitlements.requests is not None:
            limit = REPORTS_PER_CALL * entitlements.requests
            # By tier: a bucket that was small would take weeks to fill up to a higher one's.
            self._of_deployments_period.acquire(f"{deployment_id} {tier}", limit, now_s)
            self._of_users_period.acquire(f"{user_id} {tier}", 2 * limit, now_s)

    def _key(self, address: str, deployment_id: str | None) -> str:
        return f"{address} {deployment_id}" if deployment_id in self._deployments.by_id else address
