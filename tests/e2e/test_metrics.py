"""What every service measures, scraped from a running stack: it moves, and alerts fire."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

import httpx
import psycopg
import pytest
from webhost_contracts.signatures import TELEMETRY_DEPLOYMENT_HEADER
from webhost_kit.process.metrics_reference import metrics_of

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.promql import Labels, Scrapes, selectors
from tests.support.stack import Stack
from tests.unit.observability.exposed import alerts, exposed

CALLS = 5
UNTIL_LOOKED = {"webhost_deployer_scripts_missing"}
"""What says nothing until the first reconciliation."""
SERVICES = ("api", "gateway", "deployer", "telemetry-ingest", "billing")
_OF_SOMEBODY = re.compile(r"\b(usr|agt|dep|inv|evt|key|upl|req|cmd)_[0-9a-z]{8,}")

EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in alerts()}

INVOKED = 'route="/v1/invoke/{agentId}"'
MOVED = {
    f'webhost_http_request_duration_seconds_count{{{INVOKED},status="2xx"}}': CALLS,
    f'webhost_http_request_duration_seconds_count{{{INVOKED},status="4xx"}}': 1,
    'webhost_http_request_duration_seconds_count{route="/v1/invoke/{agentId}/stream"}': 1,
    'webhost_http_request_duration_seconds_count{route="/v1/agents/{agentId}"}': 1,
    'webhost_http_problems_total{code="NOT_FOUND"}': 1,
    'webhost_http_problems_total{code="UNAUTHENTICATED"}': 2,
    "webhost_http_limit_exceeded_total": 1,
    'webhost_gateway_admission_duration_seconds_count{outcome="admitted"}': CALLS + 1,
    "webhost_gateway_admission_batch_requests_sum": CALLS + 1,
    'webhost_gateway_invocations_total{outcome="succeeded"}': CALLS + 1,
    "webhost_gateway_worker_first_byte_seconds_count": CALLS + 1,
    'webhost_gateway_worker_call_duration_seconds_count{outcome="succeeded"}': CALLS + 1,
    "webhost_gateway_usage_rows_published_total": 1,
    "webhost_ingest_requests_total": CALLS + 2,
    "webhost_ingest_batch_reports_sum": CALLS + 1,
    "webhost_ingest_publish_duration_seconds_count": 1,
    'webhost_ingest_reports_rejected_total{code="UNAUTHENTICATED"}': 1,
    "webhost_billing_invocations_total": CALLS + 1,
    "webhost_billing_invocations_complete_total": CALLS + 1,
    'webhost_projector_messages_folded_total{projection="billing.usage"}': 1,
    'webhost_projector_batch_duration_seconds_count{projection="billing.usage"}': 1,
    'webhost_deployer_deployments_total{outcome="succeeded"}': 1,
    'webhost_deployer_deployments_total{outcome="failed"}': 1,
    'webhost_deployer_deployment_duration_seconds_count{outcome="succeeded"}': 1,
    'webhost_deployer_step_duration_seconds_count{step="probe",outcome="succeeded"}': 1,
    'webhost_deployer_cloudflare_request_duration_seconds_count{status="2xx"}': 1,
    'webhost_commands_total{command="deploy",outcome="handled"}': 2,
    'webhost_outbox_rows_published_total{job="webhost-api"}': 1,
    'webhost_rpc_request_duration_seconds_count{outcome="replied"}': 1,
    "webhost_event_loop_delay_seconds_count": 1,
}
"""The least that `use` adds to each, over all series."""


Durations = dict[tuple[str, Labels], tuple[float, float]]
PARALLEL = 4
"""More of one kind are not under way at once in one process here, while calls come one by one."""


def grown(before: Durations, after: Durations) -> Iterator[tuple[str, float, float]]:
    """What each series of durations grew by: its name, seconds, number."""
    for (name, labels), (total, count) in after.items():
        total_before, count_before = before.get((name, labels), (0.0, 0.0))
        if count > count_before:
            yield f"{name} {dict(labels)}", total - total_before, count - count_before


class Watched:
    """A stack's services, scraped as Prometheus would."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.scrapes = Scrapes()

    def targets(self) -> Iterator[tuple[str, str, str]]:
        """Of each process: its service, its name, and where it is scraped."""
        for process in self._stack.status()["processes"]:
            for service in SERVICES:
                if re.fullmatch(rf"{service}(-\d+)?", process["name"]):
                    yield service, process["name"], f"{process['opsUrl']}/metrics"

    def look(self) -> float:
        """Scrape all; return when that was."""
        at_s = monotonic()
        for service, name, url in self.targets():
            target = {"job": f"webhost-{service}", "instance": name}
            try:
                self.scrapes.add(at_s, httpx.get(url, timeout=2).text, **target)
            except httpx.HTTPError:
                self.scrapes.fail(at_s, **target)
        return at_s

    def totals(self, selectors: Iterable[str]) -> dict[str, float]:
        """The sum of all series of each, now."""
        at_s, found = self.look(), dict[str, float]()
        for selector in selectors:
            value = self.scrapes.value(selector, at_s)
            assert isinstance(value, dict)
            found[selector] = sum(value.values())
        return found

    def total(self, selector: str) -> float:
        return self.totals([selector])[selector]

    def durations(self) -> Durations:
        """Of each series of a histogram of seconds: what they add up to, and how many they are."""
        at_s = self.look()
        found: Durations = {}
        for name in {name for name, _ in self.scrapes.keys if name.endswith("_seconds_sum")}:
            counts = self.scrapes.value(name.replace("_sum", "_count"), at_s)
            sums = self.scrapes.value(name, at_s)
            assert isinstance(sums, dict)
            assert isinstance(counts, dict)
            found |= {(name, labels): (sums[labels], counts[labels]) for labels in sums}
        return found

    def fires(self, expression: str) -> bool:
        return self.scrapes.fires(expression, self.look())


def use(stack: Stack, user: Caller) -> str:
    """Do a little of everything; return the agent that answers."""
    agent_id = user.create_agent()["id"]
    user.deploy(agent_id)
    failing = user.start_deploy(agent_id, moduleCode="this is not JavaScript(")
    assert user.deploy_ended(failing["id"])["status"] == "failed"
    for number in range(CALLS):
        user.invoke(agent_id, f"number {number}")
    assert dict(user.stream(agent_id, "more")).keys() >= {"done"}
    assert user.http.get(f"/v1/agents/{agent_id}").status_code == 200
    assert user.post_invoke("agt_00000000000000000000000000", "x").status_code == 404
    refused = {"Authorization": "Bearer nonsense"}
    assert user.http.get("/v1/me", headers=refused).status_code == 401
    report = {TELEMETRY_DEPLOYMENT_HEADER: failing["id"]}
    answer = user.http.post("/v1/telemetry/report", json={}, headers=report)
    assert answer.status_code == 401
    user.usage()
    more = range(20)
    statuses = (user.http.post("/v1/agents", json={"name": f"a{n}"}).status_code for n in more)
    assert 402 in statuses
    return agent_id


@pytest.mark.accept("7.metrics")
@pytest.mark.timeout(240)
def test_what_happens_is_measured(stack: Stack) -> None:
    watched = Watched(stack)
    before = watched.totals(MOVED)
    durations, began_s = watched.durations(), monotonic()
    user = stack.caller()
    agent_id = use(stack, user)

    def missing() -> dict[str, tuple[float, float]]:
        moved = {it: total - before[it] for it, total in watched.totals(MOVED).items()}
        return {it: (by, MOVED[it]) for it, by in moved.items() if by < MOVED[it]}

    try:
        until(lambda: not missing(), "everything to have moved", seconds=60)
    except AssertionError:
        raise AssertionError(missing()) from None
    # What is measured in seconds is: nothing took longer than all of it.
    after, took_s = watched.durations(), monotonic() - began_s
    for series, seconds, number in grown(durations, after):
        assert 0 <= seconds <= took_s * number, (series, seconds, number, took_s)
    # Nothing is behind any more.
    for expression in ("webhost_projector_lag_messages", "webhost_projector_lag_seconds"):
        until(lambda it=expression: watched.total(it) == 0, f"{expression} to be 0", seconds=30)
    assert watched.total("webhost_gateway_calls_in_flight") == 0
    assert watched.total("webhost_ready") == len(
        [key for key in watched.scrapes.keys if key[0] == "webhost_ready"]
    )

    # Nor did calls one after another take longer than it took to make them.
    durations, began_s = watched.durations(), monotonic()
    complete = watched.total("webhost_billing_invocations_complete_total")
    for number in range(CALLS):
        user.invoke(agent_id, f"number {number}")
        user.usage()
    done = complete + CALLS
    until_true(
        lambda: watched.total("webhost_billing_invocations_complete_total") >= done, "the calls"
    )
    after, took_s = watched.durations(), monotonic() - began_s
    for series, seconds, number in grown(durations, after):
        print(f"{seconds:.3f} of {took_s:.3f} s, {number:g} times: {series}")
        assert seconds <= took_s * PARALLEL, (series, seconds, number, took_s)

    # Another user does the same: nothing is measured of anybody by name, and no series is added.
    series = watched.scrapes.keys
    use(stack, stack.caller())
    watched.look()
    assert watched.scrapes.keys - series == set()
    for name, labels in watched.scrapes.keys:
        assert not any(_OF_SOMEBODY.search(value) for _, value in labels), (name, labels)

    # An alert cannot see the first event of a series that begins with it.
    names = {name for name, _ in watched.scrapes.keys}
    for alert, expression in EXPRESSIONS.items():
        for selector in selectors(expression):
            assert selector.name in names | UNTIL_LOOKED, alert


@pytest.mark.accept("7.metrics")
def test_every_service_exposes_what_is_documented_at_once(stack: Stack) -> None:
    for service, name, url in Watched(stack).targets():
        scrapes = Scrapes()
        seconds: list[float] = []
        with httpx.Client() as http:
            for _ in range(10):
                began = perf_counter()
                text = http.get(url).text
                seconds.append(perf_counter() - began)
        print(f"{name}: {len(text.splitlines())} lines in {min(seconds) * 1000:.1f} ms")
        assert min(seconds) < 0.05
        scrapes.add(0.0, text)
        documented = metrics_of(service)
        samples = {sample for metric in documented for sample in metric.samples}
        for sample, labels in scrapes.keys - {("up", frozenset())}:
            assert sample in samples, (name, sample)
            assert {label for label, _ in labels} <= exposed()[sample]
        without_labels = {it.name for it in documented if not it.labels and it.kind != "histogram"}
        assert without_labels - UNTIL_LOOKED <= {sample for sample, _ in scrapes.keys}


@contextmanager
def locked(stack: Stack, table: str) -> Iterator[None]:
    """Nobody gets at the table for the block."""
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield
        connection.rollback()


def soon(alert: str, seconds: int) -> str:
    """The alert's expression, of which its threshold is so many seconds."""
    found, count = re.subn(r"> 60$", f"> {seconds}", EXPRESSIONS[alert])
    assert count == 1
    return found


def until_true(condition: Callable[[], bool], what: str) -> None:
    until(condition, what, seconds=45)


@pytest.mark.accept("7.metrics")
@pytest.mark.timeout(240)
def test_alerts_fire_when_usage_is_not_folded(stack: Stack) -> None:
    watched, user = Watched(stack), stack.caller()
    agent_id = user.create_agent()["id"]
    user.deploy(agent_id)
    user.invoke(agent_id, "first")
    behind = soon("ProjectionBehind", 3)
    lag = 'webhost_projector_lag_messages{projection="billing.usage"}'
    until_true(lambda: watched.total(lag) == 0, "usage to be folded")
    assert not watched.fires(behind)
    with locked(stack, "billing.invocations"):
        for number in range(CALLS):
            user.invoke(agent_id, f"number {number}")
        until_true(lambda: watched.fires(behind), "the projection to be behind")
        until_true(lambda: watched.total(lag) > 0, "messages to wait")
        assert not watched.fires(EXPRESSIONS["UsageNotFolded"])
    until_true(lambda: not watched.fires(behind), "the projection to be current")
    until_true(lambda: watched.total(lag) == 0, "no message to wait")

    with stack.frozen("billing"):
        assert watched.fires(EXPRESSIONS["ServiceDown"])
        assert watched.fires(EXPRESSIONS["UsageNotFolded"])
    until_true(lambda: not watched.fires(EXPRESSIONS["UsageNotFolded"]), "usage to be folded")
    assert not watched.fires(EXPRESSIONS["ServiceDown"])


@pytest.mark.accept("7.metrics")
@pytest.mark.timeout(240)
def test_alerts_fire_when_the_bus_is_away(stack: Stack) -> None:
    watched, user = Watched(stack), stack.caller()
    user.me()
    waits = soon("OutboxWaits", 3)
    unready, not_current = EXPRESSIONS["ServiceNotReady"], EXPRESSIONS["MemoryNotCurrent"]
    memories = len([p for p in watched.targets() if p[0] in ("gateway", "telemetry-ingest")])
    assert watched.total("webhost_memory_usable") == memories
    assert not watched.fires(waits)
    with stack.frozen(*stack.all_of("nats")):
        user.create_agent()
        until_true(lambda: watched.fires(waits), "the outbox to wait")
        until_true(lambda: watched.fires(unready), "a service not to be ready")
        until_true(lambda: watched.total("webhost_memory_usable") == 0, "no memory to be usable")
        assert watched.fires(not_current)
    until_true(lambda: not watched.fires(waits), "the outbox to be empty")
    until_true(lambda: not watched.fires(unready), "all to be ready")
    until_true(lambda: watched.total("webhost_memory_usable") == memories, "each memory to be")
    assert not watched.fires(not_current)


@pytest.mark.accept("7.metrics")
@pytest.mark.timeout(240)
def test_commands_that_wait_are_counted(stack: Stack) -> None:
    watched, user = Watched(stack), stack.caller()
    agents = [user.create_agent(f"agent {number}")["id"] for number in range(2)]
    waiting = 'webhost_commands_waiting{command="deploy"}'
    until_true(lambda: watched.total(waiting) == 0, "the deployer to rest")
    with locked(stack, "deployer.deployments"):
        started = [user.start_deploy(agent_id)["id"] for agent_id in agents]
        until_true(lambda: watched.total(waiting) == len(agents), "each command to be counted")
        assert watched.fires(EXPRESSIONS["CommandsWait"])
    for deployment_id in started:
        user.deploy_ended(deployment_id)
    until_true(lambda: watched.total(waiting) == 0, "none to wait")
    assert not watched.fires(EXPRESSIONS["CommandsWait"])


@pytest.mark.accept("7.metrics")
@pytest.mark.timeout(240)
def test_calls_without_telemetry_are_seen(stack: Stack) -> None:
    watched, user = Watched(stack), stack.caller()
    agent_id = user.create_agent()["id"]
    user.deploy(agent_id)
    user.invoke(agent_id, "first")
    both = "webhost_billing_invocations_total", "webhost_billing_invocations_complete_total"
    until_true(lambda: watched.total(both[0]) == watched.total(both[1]), "the first report")
    of_gateways, of_both = map(watched.total, both)
    with stack.frozen("telemetry-ingest"):
        for number in range(CALLS):
            user.invoke(agent_id, f"number {number}")
        until_true(lambda: watched.total(both[0]) == of_gateways + CALLS, "the calls to be counted")
        assert watched.total(both[1]) == of_both
