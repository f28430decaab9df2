"""Rules, dashboards and the autoscaler use what the services expose, and all of it."""

import re
from collections import Counter
from typing import Any

import promql_parser as promql
import pytest

from tests.support.promql import selectors
from tests.unit.observability.exposed import (
    EXTERNAL,
    FOLDER,
    ROOT,
    TARGET,
    all_alerts,
    dashboards,
    exposed,
    listed,
    optional,
    panels,
    queries,
    rules,
    scaled_by,
)

EXPRESSIONS = [*(rule["expr"] for rule in rules()), *queries(), *scaled_by()]
OPTIONAL = [(file, alert) for file, found in optional().items() for alert in found]
RECORDED = {
    "webhost:invocations_without_telemetry:ratio30m": set[str](),
    "job:webhost_http_unavailable:ratio5m": {"job"},
    "route:webhost_http_request_duration_seconds:p99_5m": {"job", "route"},
}

NOT_SHOWN = {
    "process_virtual_memory_bytes": "it says little: address space is free",
    "python_gc_collections_total": "the event loop's delay shows what a collection costs",
    "python_gc_objects_collected_total": "the same",
    "python_gc_objects_uncollectable_total": "always 0 in Python 3",
    "python_info": "a version is no curve",
    "webhost_api_artifacts_removed_total": "a cleanup, also in the log",
    "webhost_api_history_rows_removed_total": "the same",
    "webhost_spans_exported_total": "what is dropped is shown; the collector counts the others",
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_exists(expression: str) -> None:
    known = exposed() | RECORDED
    for selector in selectors(expression):
        assert selector.name in known, f"{selector.name} does not exist"
        for matcher in selector.matchers.matchers:
            labels = known[selector.name] | TARGET
            assert matcher.name in labels, f"{selector.name} has no {matcher.name}"


@pytest.mark.parametrize(("file", "alert"), OPTIONAL)
def test_an_optional_alert_asks_for_what_its_component_brings(
    file: str, alert: dict[str, Any]
) -> None:
    """By the list of what others expose: none of ours, and none of another component's."""
    known = EXTERNAL[file]
    asked = list(selectors(alert["expr"]))
    assert asked
    for selector in asked:
        assert selector.name in known, f"{selector.name} is nobody's"
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name] | TARGET, matcher.name
    labels = set().union(*(known[selector.name] for selector in asked), TARGET)
    for by in re.findall(r"\bby \(([^)]*)\)", alert["expr"]):
        assert {name.strip() for name in by.split(",")} <= labels, by


def test_what_others_expose_is_asked_for() -> None:
    asked: dict[str, set[str]] = {file: set() for file in EXTERNAL}
    for file, alert in OPTIONAL:
        asked[file] |= {selector.name for selector in selectors(alert["expr"])}
    assert asked == {file: {*known} for file, known in EXTERNAL.items()}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_grouped_by_exists(expression: str) -> None:
    known = exposed() | RECORDED
    labels = set().union(*(known[selector.name] for selector in selectors(expression)), TARGET)
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {name.strip() for name in by.split(",")} <= labels, by


def test_what_a_legend_or_a_summary_names_is_left_by_its_expression() -> None:
    shown = [(one["expr"], one["legendFormat"]) for panel in panels() for one in panel["targets"]]
    shown = [(expr.replace("$__rate_interval", "5m"), legend) for expr, legend in shown]
    shown += [(alert["expr"], alert["annotations"]["summary"]) for alert in all_alerts()]
    known = exposed() | RECORDED
    for others in EXTERNAL.values():
        known |= others
    for expression, text in shown:
        named = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text))
        by = re.findall(r"\bby \(([^)]*)\)", expression)
        if by:
            left = {name.strip() for names in by for name in names.split(",")} - {"le"}
        elif re.search(r"\b(sum|max|min|count)\(", expression):
            left = set[str]()
        else:
            left = set().union(*(known[it.name] for it in selectors(expression)), TARGET)
        assert named <= left, (expression, text)


def test_every_metric_is_on_a_dashboard_or_left_out_on_purpose() -> None:
    # What is recorded counts where the record is shown.
    texts = [*queries(), *(rule["expr"] for rule in rules() if "record" in rule)]
    used = {selector.name for text in texts for selector in selectors(text)}
    unused = {one.name for one in listed() if not used & set(one.samples)}
    assert unused == NOT_SHOWN.keys()


def test_every_record_is_shown() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert recorded == RECORDED.keys()
    used = {selector.name for query in queries() for selector in selectors(query)}
    assert recorded <= used
    for rule in rules():
        if "record" in rule:
            by = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
            labels = {name.strip() for names in by for name in names.split(",")} - {"le"}
            assert labels == RECORDED[rule["record"]]


def test_every_expression_is_of_the_language() -> None:
    for expression in (*EXPRESSIONS, *(alert["expr"] for _, alert in OPTIONAL)):
        promql.parse(expression)
    with pytest.raises(ValueError, match="type"):
        promql.parse("sum(rate(webhost_http_problems_total))")


def test_rules_are_well_formed() -> None:
    """As Prometheus would have it: what else is in a rule it refuses."""
    found = [*rules(), *(alert for _, alert in OPTIONAL)]
    names = Counter(rule.get("alert") or rule["record"] for rule in found)
    assert max(names.values()) == 1
    for rule in found:
        assert set(rule) <= {"alert", "record", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        name = rule.get("alert") or rule["record"]
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name)


@pytest.mark.accept("8.silent")
def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in all_alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert
        assert alert["annotations"].keys() == {"summary", "runbook"}
        runbook = (ROOT / alert["annotations"]["runbook"]).read_text("utf-8")
        assert f"`{alert['alert']}`" in runbook, f"{alert['alert']} is not in its runbook"


def test_a_runbook_names_what_exists() -> None:
    """Of metrics, and of alerts."""
    names = {alert["alert"] for alert in all_alerts()}
    for path in [*sorted((ROOT / "docs/runbooks").glob("*.md")), FOLDER / "README.md"]:
        text = path.read_text("utf-8")
        metrics = set(re.findall(r"`(webhost_[a-z_]+)", text))
        assert metrics <= exposed().keys() | {one.name for one in listed()}, path
        for line in re.findall(r"(?ms)^Alerts?: (.+?)\.$", text):
            assert set(re.findall(r"`(\w+)`", line)) <= names, path


def test_dashboards_can_be_imported() -> None:
    assert dashboards()
    for name, dashboard in dashboards().items():
        ids = Counter(panel["id"] for panel in dashboard["panels"])
        assert max(ids.values()) == 1, f"{name}: a panel's id is there twice"
        assert dashboard["uid"]
        assert dashboard["title"]
        [datasource] = dashboard["templating"]["list"]
        assert (datasource["name"], datasource["type"]) == ("datasource", "datasource")
        places = Counter((it["gridPos"]["x"], it["gridPos"]["y"]) for it in dashboard["panels"])
        assert max(places.values()) == 1, f"{name}: panels lie on each other"
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                assert panel["datasource"]["uid"] == "${datasource}"
                refs = [target["refId"] for target in panel["targets"]]
                assert len(set(refs)) == len(refs) > 0
