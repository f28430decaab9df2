"""Every alert: a series with which it fires, and one close by with which it does not."""

import ast
from functools import cache
from pathlib import Path

import promql_parser as promql
import pytest
from webhost_local.installation.services import SERVICES

from tests.support.promql import Scrapes, selectors
from tests.unit.observability.exposed import ROOT, all_alerts, optional, queries, rules, scaled_by

EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in all_alerts()}
Series = tuple[str, dict[str, str], float, float]
"""A sample's name, its labels, its value at first, and five minutes later."""

API = {"job": "webhost-api", "instance": "a"}
WITHOUT = {f"webhost-{service}" for service in SERVICES}


def gauge(name: str, value: float, /, **labels: str) -> Series:
    return name, API | labels, value, value


def grown(name: str, by: float, **labels: str) -> Series:
    return name, API | labels, 7, 7 + by


def up(*jobs: str, value: float = 1) -> list[Series]:
    return [gauge("up", value, job=job) for job in jobs]


def buckets(name: str, bound: str, below: float, **labels: str) -> list[Series]:
    """Of a hundred, so many below the bound, the others below twice of it."""
    counts = {bound: below, str(2 * float(bound)): 100, "+Inf": 100}
    return [grown(f"{name}_bucket", count, le=le, **labels) for le, count in counts.items()]


def share(part: Series, whole: Series) -> list[Series]:
    return [part, whole]


def server(number: int, leads: str, **labels: str) -> Series:
    """A NATS server, as its exporter sees it, which knows this one as the leader."""
    name = f"webhost-nats-{number}"
    its = {"meta_leader": leads, "is_meta_leader": str(leads == name).lower()} | labels
    return gauge("jetstream_server_total_streams", 6, server_name=name, **its)


def stream(number: int, leads: str) -> Series:
    name = f"webhost-nats-{number}"
    its = {"stream_leader": leads, "is_stream_leader": str(leads == name).lower()}
    total = "jetstream_stream_total_messages"
    return gauge(total, 9, server_name=name, stream_name="USAGE", **its)


def instance(number: int, name: str, value: float) -> Series:
    """What an instance of CloudNativePG says."""
    its = {"job": "webhost-postgres", "instance": f"webhost-postgres-{number}"}
    return gauge(f"cnpg_{name}", value, **its)


def recovering(*primaries: int) -> list[Series]:
    return [instance(it, "pg_replication_in_recovery", it not in primaries) for it in (1, 2, 3)]


def expires_in(days: float, name: str = "webhost-nats-tls") -> list[Series]:
    at = 300 + days * 86400
    return [gauge("certmanager_certificate_expiration_timestamp_seconds", at, name=name)]


CLOUDFLARE = "webhost_deployer_cloudflare_request_duration_seconds_count"
FAILURES = "webhost_gateway_worker_failures_total"
GIVEN_UP = "webhost_deployer_deployments_given_up_total"
PROBLEMS = "webhost_http_problems_total"
DEPLOYMENTS = "webhost_deployer_deployments_total"
TABLE: dict[str, tuple[list[Series], list[Series]]] = {
    "ServiceDown": (
        up(*sorted(WITHOUT - {"webhost-billing"})),
        [*up(*sorted(WITHOUT)), *up("webhost-postgres", "other", value=0)],
    ),
    "ServiceNotReady": (
        [gauge("webhost_ready", 0, check="database")],
        [gauge("webhost_ready", 1, check="database")],
    ),
    "MemoryNotCurrent": (
        [gauge("webhost_memory_usable", 0, projection="gateway.routes")],
        [gauge("webhost_memory_usable", 1, projection="gateway.routes")],
    ),
    "GatewayDied": (
        [grown("webhost_gateway_invocations_total", 1, outcome="unknown")],
        [grown("webhost_gateway_invocations_total", 9, outcome="completed")],
    ),
    "FilesRunOut": (
        [gauge("process_open_fds", 81), gauge("process_max_fds", 100)],
        [gauge("process_open_fds", 79), gauge("process_max_fds", 100)],
    ),
    "DeniedByTheBus": (
        [grown("webhost_bus_refusals_total", 1, action="publish")],
        [grown("webhost_bus_refusals_total", 0, action="publish")],
    ),
    "DeniedByTheDatabase": (
        [grown("webhost_database_refusals_total", 1)],
        [grown("webhost_database_refusals_total", 0)],
    ),
    "FactsRefused": (
        [grown("webhost_projector_facts_refused_total", 1, projection="billing.usage")],
        [grown("webhost_projector_facts_refused_total", 0, projection="billing.usage")],
    ),
    "RequestsUnavailable": tuple(  # pyright: ignore[reportAssignmentType]
        [
            grown(PROBLEMS, count, code="UNAVAILABLE", fault="ours"),
            # A webhook that is not configured, users who take all of their own share.
            grown(PROBLEMS, 500, code="UNAVAILABLE", fault="others"),
            grown(PROBLEMS, 500, code="NOT_FOUND", fault="others"),
            grown("webhost_http_request_duration_seconds_count", 1_000),
        ]
        for count in (21, 19)
    ),
    "WorkersNotReached": tuple(  # pyright: ignore[reportAssignmentType]
        [
            grown(FAILURES, count, failure="network_error", fault="ours"),
            # Workers that throw, and those that are too slow.
            grown(FAILURES, 50, failure="upstream_status", fault="others"),
            grown(FAILURES, 50, failure="timeout", fault="others"),
            grown("webhost_gateway_invocations_total", 100, outcome="completed"),
        ]
        for count in (21, 19)
    ),
    "AdmissionSlow": (
        buckets("webhost_gateway_admission_duration_seconds", "0.5", 98),
        buckets("webhost_gateway_admission_duration_seconds", "0.5", 99),
    ),
    "ConnectionsTurnedAway": (
        [grown("webhost_http_connections_ended_total", 1, reason="crowded")],
        [grown("webhost_http_connections_ended_total", 9, reason="idle")],
    ),
    "EventLoopLate": (
        buckets("webhost_event_loop_delay_seconds", "0.25", 89),
        buckets("webhost_event_loop_delay_seconds", "0.25", 90),
    ),
    "DatabasePoolFull": (
        [
            gauge("webhost_database_connections_in_use", 15),
            gauge("webhost_database_connections_max", 16),
        ],
        [
            gauge("webhost_database_connections_in_use", 14),
            gauge("webhost_database_connections_max", 16),
        ],
    ),
    "StreamFillsUp": (
        [gauge("webhost_stream_filling", 1, stream="USAGE")],
        [gauge("webhost_stream_filling", 0, stream="USAGE")],
    ),
    "StreamFull": (
        [
            gauge("webhost_stream_bytes", 96, stream="USAGE"),
            gauge("webhost_stream_max_bytes", 100, stream="USAGE"),
        ],
        [
            gauge("webhost_stream_bytes", 94, stream="USAGE"),
            gauge("webhost_stream_max_bytes", 100, stream="USAGE"),
        ],
    ),
    "ProjectionHalted": (
        [gauge("webhost_projector_halted", 1, projection="billing.usage", partition="3")],
        [gauge("webhost_projector_halted", 0, projection="billing.usage", partition="3")],
    ),
    "ProjectionBehind": (
        [gauge("webhost_projector_lag_seconds", 61, projection="billing.usage", partition="3")],
        [gauge("webhost_projector_lag_seconds", 59, projection="billing.usage", partition="3")],
    ),
    "UsageNotFolded": (
        [gauge("webhost_projector_lag_messages", 0, projection="api.reactor")],
        [gauge("webhost_projector_lag_messages", 0, projection="billing.usage")],
    ),
    "OutboxWaits": (
        [gauge("webhost_outbox_oldest_age_seconds", 61)],
        [gauge("webhost_outbox_oldest_age_seconds", 59)],
    ),
    "UsageWaits": (
        [gauge("webhost_gateway_usage_oldest_age_seconds", 61)],
        [gauge("webhost_gateway_usage_oldest_age_seconds", 59)],
    ),
    "CommandsWait": (
        [gauge("webhost_commands_waiting", 1, command="deploy")],
        [gauge("webhost_commands_waiting", 0, command="deploy")],
    ),
    "DeadLetters": (
        [gauge("webhost_stream_messages", 1, stream="DEADLETTERS")],
        [gauge("webhost_stream_messages", 9, stream="EVENTS")],
    ),
    "EventsParked": (
        [gauge("webhost_projector_parked_events", 1, projection="billing.usage")],
        [gauge("webhost_projector_parked_events", 0, projection="billing.usage")],
    ),
    "AuditFactsLost": (
        [grown("webhost_unstored_facts_lost_total", 1)],
        [grown("webhost_unstored_facts_lost_total", 0)],
    ),
    "InvocationsWithoutTelemetry": (
        share(
            grown("webhost_billing_invocations_complete_total", 94),
            grown("webhost_billing_invocations_total", 100),
        ),
        share(
            grown("webhost_billing_invocations_complete_total", 96),
            grown("webhost_billing_invocations_total", 100),
        ),
    ),
    "DeploymentsFail": (
        [grown(GIVEN_UP, 3, fault="ours"), grown(DEPLOYMENTS, 2, outcome="succeeded")],
        [
            grown(GIVEN_UP, 2, fault="ours"),
            # Code that does not start.
            grown(GIVEN_UP, 90, fault="others"),
            grown(DEPLOYMENTS, 92, outcome="failed"),
            grown(DEPLOYMENTS, 3, outcome="succeeded"),
        ],
    ),
    "DeploymentsWait": (
        [gauge("webhost_deployer_agents_waiting", 1)],
        [gauge("webhost_deployer_agents_waiting", 0)],
    ),
    "ProviderRefuses": (
        [grown(CLOUDFLARE, 51, status="5xx"), grown(CLOUDFLARE, 49, status="2xx")],
        [
            grown(CLOUDFLARE, 49, status="5xx"),
            # Uploads of code that it does not take.
            grown(CLOUDFLARE, 500, status="4xx"),
            grown(CLOUDFLARE, 51, status="2xx"),
        ],
    ),
    "ScriptsMissing": (
        [gauge("webhost_deployer_scripts_missing", 1)],
        [gauge("webhost_deployer_scripts_missing", 0)],
    ),
    # A server that is left alone knows no leader any more: tests/integration/kit/test_cluster.py.
    "NatsHasNoLeader": (
        [server(0, "")],
        [server(it, "webhost-nats-1") for it in (0, 1)],
    ),
    "NatsStreamHasNoLeader": (
        [stream(0, ""), stream(1, "")],
        [stream(0, "webhost-nats-1"), stream(1, "webhost-nats-1")],
    ),
    "NatsServerAway": (
        [server(it, "webhost-nats-1") for it in (0, 1)],
        [server(it, "webhost-nats-1") for it in (0, 1, 2)],
    ),
    "PostgresHasNoPrimary": (recovering(), recovering(2)),
    "PostgresHasNoStandby": (
        [*recovering(1), instance(1, "pg_replication_streaming_replicas", 0)],
        # A standby has none either.
        [
            *recovering(1),
            instance(1, "pg_replication_streaming_replicas", 1),
            instance(2, "pg_replication_streaming_replicas", 0),
        ],
    ),
    "PostgresInstanceAway": (
        [instance(1, "collector_up", 1), instance(2, "collector_up", 1)],
        [instance(it, "collector_up", 1) for it in (1, 2, 3)],
    ),
    "PostgresStandbyDetached": (
        [*recovering(1), *(instance(it, "pg_replication_is_wal_receiver_up", 0) for it in (1, 2))],
        [
            *recovering(1),
            instance(1, "pg_replication_is_wal_receiver_up", 0),
            instance(2, "pg_replication_is_wal_receiver_up", 1),
        ],
    ),
    "PostgresStandbyBehind": (
        [instance(2, "pg_replication_lag", 61)],
        [instance(2, "pg_replication_lag", 59)],
    ),
    "CertificateIsNotRenewed": (
        expires_in(13),
        [*expires_in(15), *expires_in(1, "somebody-elses")],
    ),
    "CertificateEnds": (expires_in(1.9), expires_in(2.1)),
}


def fires(alert: str, series: list[Series]) -> bool:
    scrapes = Scrapes()
    for name, labels, first, then in series:
        scrapes.set(0.0, name, first, **labels)
        scrapes.set(300.0, name, then, **labels)
    return scrapes.fires(EXPRESSIONS[alert], 300.0)


def test_every_alert_is_in_the_table() -> None:
    assert TABLE.keys() == EXPRESSIONS.keys()


@pytest.mark.parametrize("alert", TABLE)
def test_an_alert_fires_when_it_should(alert: str) -> None:
    firing, quiet = TABLE[alert]
    assert fires(alert, firing)
    assert not fires(alert, quiet)


def test_others_that_nobody_scrapes_are_noticed() -> None:
    """Where an optional alert is, what it looks at is there, or something is wrong."""
    for alert in ("NatsHasNoLeader", "PostgresInstanceAway"):
        assert fires(alert, up(*sorted(WITHOUT)))


def test_of_two_clusters_each_needs_its_primary() -> None:
    gateways = [
        (name, labels | {"job": "webhost-gateway-postgres"}, first, then)
        for name, labels, first, then in recovering()
    ]
    assert fires("PostgresHasNoPrimary", [*recovering(1), *gateways])


def test_a_target_that_does_not_answer_is_down() -> None:
    jobs = sorted(WITHOUT)
    assert fires("ServiceDown", [*up(*jobs), *up("webhost-api", value=0)])
    for job in jobs:
        assert fires("ServiceDown", up(*(WITHOUT - {job})))


@cache
def literals() -> frozenset[str]:
    """Every piece of text that our code names."""
    files: list[Path] = [*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/*/src/**/*.py")]
    return frozenset(
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_what_a_label_is_compared_with_exists() -> None:
    """Also in the dashboards, and where the autoscaler asks."""
    known = literals() | WITHOUT | {f"{digit}xx" for digit in range(1, 6)} | {"webhost-postgres"}
    others = [alert["expr"] for found in optional().values() for alert in found]
    for expression in (*(rule["expr"] for rule in rules()), *queries(), *scaled_by(), *others):
        for selector in selectors(expression):
            for matcher in selector.matchers.matchers:
                if matcher.name == "route":  # by a pattern
                    continue
                is_text = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
                values = [matcher.value] if is_text else matcher.value.split("|")
                for value in values:
                    assert value in known or value == "webhost-.+", (selector.name, value)


def test_ingest_scales_by_what_it_accepts() -> None:
    """Reports that are refused, anybody can send: no counter of theirs is in a query."""
    [asked] = [query for query in scaled_by() if "webhost_ingest" in query]
    scrapes = Scrapes()
    for at_s, part in ((0.0, 0), (60.0, 1)):
        scrapes.set(at_s, "webhost_ingest_batch_reports_sum", 6 * part, job="i")
        for refused in (
            "webhost_ingest_requests_total",
            "webhost_ingest_reports_rejected_total",
            "webhost_http_problems_total",
        ):
            scrapes.set(at_s, refused, 90_000 * part, job="i", code="UNAUTHENTICATED")
    assert scrapes.fires(f"{asked} > 0", 60.0)
    assert not scrapes.fires(f"{asked} > 1", 60.0)


def test_the_readme_says_what_the_autoscaler_asks() -> None:
    text = (ROOT / "deploy/observability/README.md").read_text("utf-8")
    for query in scaled_by():
        assert f"`{query}`" in text
