"""The rules for alerts name metrics that there are, and runbooks that there are."""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from webhost_billing import projection

ROOT = Path(__file__).parents[3]
RULES = (ROOT / "docs/runbooks/alerts.yaml").read_text("utf-8")


@pytest.mark.accept("8.silent")
def test_a_rule_names_what_is_measured() -> None:
    assert projection.SHARE
    measured = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    named = set(re.findall(r"webhost_\w+", RULES))
    assert named == {"webhost_billing_complete_total", "webhost_billing_invocations_total"}
    assert named <= measured


@pytest.mark.accept("8.silent")
def test_every_alert_has_its_runbook() -> None:
    runbooks = re.findall(r"runbook: (\S+)", RULES)
    assert len(runbooks) == len(re.findall(r"- alert: \w+", RULES)) > 0
    for path in runbooks:
        assert "alerts.yaml" in (ROOT / path).read_text("utf-8")
