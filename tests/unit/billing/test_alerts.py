"""The rules for alerts name metrics that there are, and runbooks that there are."""

import re
import textwrap
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
def test_the_rule_fires_as_its_runbook_says(invocations: int, complete: int, fires: bool) -> None:
    """More than 5 % of at least 100 calls; a selector of labels that there are not is no metric."""
    [block] = re.findall(r"(?m)^ +expr: \|\n((?: {10}.*\n)+)", RULES)
    amounts = {
        "webhost_billing_invocations_total": invocations,
        "webhost_billing_complete_total": complete,
    }
    expression = re.sub(
        r"sum\(increase\((webhost_\w+)\[30m\]\)\)",
        lambda match: str(amounts[match[1]]),
        " ".join(textwrap.dedent(block).split()),
    )
    # What is left is arithmetic, which binds as it does in PromQL.
    assert re.fullmatch(r"[0-9. */<>=-]+and[0-9. */<>=-]+", expression), expression
    assert eval(expression) is fires
