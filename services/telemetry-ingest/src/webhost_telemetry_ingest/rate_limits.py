"""How much one deployment may report, and how often one address may fail to show its credentials.

Guarantees: what a stolen key or no key at all sends takes nothing of what others may send. Before
the signature is verified only failures count, by address and by the deployment that they name: on
Cloudflare many tenants' Workers share addresses. Deployments that nobody knows count as one.
After it, a deployment has REPORTS_PER_CALL times the calls that its user's tier allows. So an
honest one is never refused: what ends in a minute are at most that minute's calls, the burst before
them, and as many as may run at once, which tiers set far below a minute's calls.
"""

from collections.abc import Mapping
from time import monotonic

from webhost_contracts.entitlements import DEFAULT_TIER, Entitlements
from webhost_kit.http.rate_limiter import RateLimiter

from webhost_telemetry_ingest.model import Deployment, Deployments

REPORTS_PER_CALL = 3
"""A Worker tries to deliver one at most so often."""


class RateLimits:
    """The limits of this process. Each method raises RateLimited or returns at once."""

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
        self._reports = RateLimiter("reports")

    def check_failures(self, address: str, deployment_id: str | None) -> None:
        """Refuse where this address has failed too often, in this deployment's name."""
        self._failures.check(self._key(address, deployment_id), self._most_failures, monotonic())

    def count_failure(self, address: str, deployment_id: str | None) -> None:
        """Take note of missing or wrong credentials."""
        self._failures.charge(self._key(address, deployment_id), self._most_failures, monotonic())

    def acquire_report(self, deployment_id: str, known: Deployment | None) -> None:
        """Take one of a deployment's reports; its signature is verified."""
        tier = self._deployments.tier_of(known.user_id) if known else DEFAULT_TIER
        entitlements = self._tiers.get(tier, self._tiers[DEFAULT_TIER])
        limit = REPORTS_PER_CALL * entitlements.requests_per_minute
        self._reports.acquire(deployment_id, limit, monotonic())

    def _key(self, address: str, deployment_id: str | None) -> str:
        return f"{address} {deployment_id}" if deployment_id in self._deployments.by_id else address
