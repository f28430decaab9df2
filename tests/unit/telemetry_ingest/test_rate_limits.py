"""An honest deployment is within its limit at the worst that its tier allows."""

import pytest
from webhost_contracts.entitlements import Entitlements, load_tiers
from webhost_kit.http.rate_limiter import RateLimiter
from webhost_telemetry_ingest.rate_limits import REPORTS_PER_CALL

TIERS = load_tiers()
MINUTES = 3


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize("tier", TIERS)
def test_an_honest_deployment_is_never_refused(tier: str) -> None:
    """All that ran ends as a burst begins, and calls at the full rate follow: none is refused."""
    allowed: Entitlements = TIERS[tier]
    a_minute = allowed.requests_per_minute
    limiter = RateLimiter("reports")
    limit = REPORTS_PER_CALL * a_minute
    running = a_minute if allowed.concurrency is None else allowed.concurrency
    for _ in range(running + a_minute):
        limiter.acquire("dep_1", limit, 0)
    for second in range(MINUTES * 60):
        for _ in range(a_minute // 60):
            limiter.acquire("dep_1", limit, second)
