"""Where alerts have more to them than `test_every_alert` says."""

import pytest

from tests.support.promql import Scrapes
from tests.unit.observability.exposed import alerts

EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in alerts()}


@pytest.mark.accept("8.silent")
@pytest.mark.parametrize(
    ("invocations", "complete", "fires"),
    [
        (1_000, 949, True),
        (1_000, 951, False),
        (1_000, 1_000, False),
        (100, 0, True),
        (99, 0, False),
    ],
)
def test_calls_without_telemetry(invocations: int, complete: int, fires: bool) -> None:
    """More than 5 % of at least 100 calls, as its runbook says."""
    scrapes = Scrapes()
    for at_s, part in ((0.0, 0.0), (900.0, 0.5), (1800.0, 1.0)):
        for job, share in (("a", 0.25), ("b", 0.75)):
            scrapes.set(
                at_s, "webhost_billing_invocations_total", 7 + invocations * part * share, job=job
            )
            scrapes.set(
                at_s, "webhost_billing_invocations_complete_total", complete * part * share, job=job
            )
    assert scrapes.fires(EXPRESSIONS["InvocationsWithoutTelemetry"], 1800.0) is fires


@pytest.mark.parametrize(
    ("failed", "succeeded", "fires"), [(3, 2, True), (2, 3, False), (4, 0, False), (5, 0, True)]
)
def test_deployments_that_fail(failed: int, succeeded: int, fires: bool) -> None:
    scrapes = Scrapes()
    for at_s, part in ((0.0, 0), (3000.0, 1)):
        for outcome, count in (("failed", 70), ("succeeded", succeeded), ("torn_down", 50)):
            scrapes.set(
                at_s, "webhost_deployer_deployments_total", count * part, outcome=outcome, job="d"
            )
        for fault, count in (("ours", failed), ("others", 70)):
            name = "webhost_deployer_deployments_given_up_total"
            scrapes.set(at_s, name, count * part, fault=fault, job="d")
    assert scrapes.fires(EXPRESSIONS["DeploymentsFail"], 3000.0) is fires


@pytest.mark.parametrize(
    ("held", "most", "fires"), [(96, 100, True), (94, 100, False), (96, -1, False)]
)
def test_a_full_stream(held: int, most: int, fires: bool) -> None:
    """Also as several services see it; one without end is never full."""
    scrapes = Scrapes()
    for job in ("a", "b"):
        scrapes.set(0.0, "webhost_stream_bytes", held, stream="EVENTS", job=job)
        scrapes.set(0.0, "webhost_stream_max_bytes", most, stream="EVENTS", job=job)
    assert scrapes.fires(EXPRESSIONS["StreamFull"], 0.0) is fires


def test_a_counter_that_began_anew() -> None:
    """A restarted process counts from 0."""
    scrapes = Scrapes()
    for at_s, value in ((0.0, 100.0), (60.0, 104.0), (120.0, 1.0)):
        scrapes.set(at_s, "webhost_bus_refusals_total", value, action="publish", job="a")
    found = scrapes.value('sum(increase(webhost_bus_refusals_total{action="publish"}[10m]))', 120.0)
    assert found == {frozenset(): 5.0}
