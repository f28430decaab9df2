"""The checks of an invocation."""

import msgspec
import pytest
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.invoke import Message
from webhost_contracts.totals import Totals
from webhost_gateway import decisions
from webhost_gateway.decisions import Target
from webhost_gateway.model import Invocation
from webhost_gateway.routing.model import Account, Agent, Deployment, RouteTable
from webhost_kit.errors import (
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unauthorized,
    Unavailable,
)

URL = "https://workers.example/dep/dep_1/invoke"
TIER = Entitlements(
    requests=10, tokens=100, compute_ms=1000, requests_per_minute=1, telemetry_days=1, log_days=1
)


@pytest.mark.accept("5.shape")
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", []),
        (b"[]", []),
        (b"{", []),
        (b"{}", ["input"]),
        (b'{"input":{}}', ["input"]),
        (b'{"input":{"prompt":"a","messages":[{"role":"user","content":"b"}]}}', ["input"]),
        (b'{"input":{"prompt":"a","promt":"b"}}', ["input", "promt"]),
        (b'{"input":{"prompt":"a"},"sesionId":"s"}', ["sesionId"]),
        (b'{"input":{"prompt":1}}', ["input", "prompt"]),
        (b'{"input":{"messages":[]}}', ["input", "messages"]),
        (
            b'{"input":{"messages":[{"role":"user","content":"a"},{"role":"x","content":"b"}]}}',
            ["input", "messages", 1, "role"],
        ),
        (b'{"input":{"messages":[{"role":"user"}]}}', ["input", "messages", 0, "content"]),
        (b'{"input":{"prompt":"a"},"options":{"maxSteps":0}}', ["options", "maxSteps"]),
        (b'{"input":{"prompt":"a"},"protocol":"invoke/v2"}', ["protocol"]),
        (b'{"input":{"prompt":"\xff"}}', None),
        (b'{"input":{"prompt":"a"},"metadata":{"client":' + b"[" * 2000, []),
    ],
)
def test_a_body_of_another_shape_is_refused_where_it_is_wrong(
    body: bytes, path: list[str | int] | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decisions.parse(body)
    (issue,) = refused.value.details["issues"]
    assert path is None or issue["path"] == path
    assert issue["message"]


TARGET = Target("dep_1", "cloudflare", "https://w.example", key_version=2, key_generation=1)
INVOCATION = Invocation(
    id="inv_1",
    user_id="usr_1",
    agent_id="agt_1",
    deployment_id="dep_1",
    runtime_provider="cloudflare",
    trace_id="t",
    period_key="2026-11",
    admitted_at_ms=5,
)


def test_at_most_256_messages() -> None:
    def body(number: int) -> bytes:
        messages = [{"role": "user", "content": "a"}] * number
        return msgspec.json.encode({"input": {"messages": messages}})

    assert decisions.parse(body(256)).input.messages is not None
    with pytest.raises(InvalidRequest):
        decisions.parse(body(257))


def test_null_is_absent_and_a_prompt_becomes_one_user_message() -> None:
    request = decisions.parse(b'{"input":{"prompt":"hi","messages":null},"sessionId":null}')
    worker = decisions.for_worker(request, INVOCATION, TARGET, TIER, 60_000)
    assert worker.input.messages == (Message("user", "hi"),)
    assert b"sessionId" not in msgspec.json.encode(worker)


def test_a_worker_learns_whose_the_call_is_and_what_it_may_use() -> None:
    request = decisions.parse(b'{"input":{"prompt":"hi"}}')
    worker = decisions.for_worker(request, INVOCATION, TARGET, TIER, 60_000)
    assert msgspec.to_builtins(worker.deployment) == {
        "userId": "usr_1",
        "agentId": "agt_1",
        "keyVersion": 2,
        "keyGeneration": 1,
    }
    limited = msgspec.structs.replace(TIER, cpu_ms=10_000, subrequests=50)
    worker = decisions.for_worker(request, INVOCATION, TARGET, limited, 60_000)
    assert msgspec.to_builtins(worker.deployment.limits) == {"cpuMs": 10_000, "subRequests": 50}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"input":{"prompt":"a"},"traceId":"a.b:c_d-1"}', "a.b:c_d-1"),
        (b'{"input":{"prompt":"a"},"metadata":{"traceId":"m"}}', "m"),
        (b'{"input":{"prompt":"a"},"traceId":"t","metadata":{"traceId":"m"}}', "t"),
        (b'{"input":{"prompt":"a"},"traceId":"has space"}', None),
        (b'{"input":{"prompt":"a"},"traceId":"new\\nline"}', None),
        (b'{"input":{"prompt":"a"},"traceId":"line\\n"}', None),
        (b'{"input":{"prompt":"a"},"traceId":""}', None),
        (b'{"input":{"prompt":"a"},"traceId":"' + b"x" * 129 + b'"}', None),
        (b'{"input":{"prompt":"a"}}', None),
    ],
)
def test_only_an_acceptable_trace_id_is_kept(body: bytes, kept: str | None) -> None:
    assert decisions.trace_id_of(decisions.parse(body)) == kept


def table(agent: Agent | None, deployment: Deployment | None = None) -> RouteTable:
    routes = RouteTable()
    if agent is not None:
        routes.agents["agt_1"] = agent
    if deployment is not None:
        routes.deployments["dep_1"] = deployment
    return routes


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        (table(None), NotFound),
        (table(Agent(1, "usr_other", deployment_id="dep_1")), NotFound),
        (table(Agent(1, "usr_1", deleted_at_ms=1, disabled=True)), NotFound),
        (table(Agent(1, "usr_1", disabled=True)), Unauthorized),
        (table(Agent(1, "usr_1")), Conflict),
        (table(Agent(1, "usr_1", deployment_id="dep_1")), Unavailable),
        (
            table(Agent(1, "usr_1", deployment_id="dep_1"), Deployment(1, "cloudflare")),
            Unavailable,
        ),
    ],
)
def test_an_agent_that_cannot_be_called(routes: RouteTable, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        decisions.target_of(routes, "usr_1", "agt_1")


def test_another_users_agent_looks_like_none() -> None:
    refusals = []
    for routes in (table(None), table(Agent(1, "usr_other", disabled=True))):
        with pytest.raises(NotFound) as refused:
            decisions.target_of(routes, "usr_1", "agt_1")
        refusals.append((refused.value.message, refused.value.details))
    assert refusals[0] == refusals[1]


@pytest.mark.accept("7.account-disabled")
@pytest.mark.parametrize("agent", [Agent(1, "usr_1"), Agent(1, "usr_1", disabled=True)])
def test_a_disabled_account_is_told_before_its_agents_state_and_learns_of_no_other_agent(
    agent: Agent,
) -> None:
    routes = table(agent)
    routes.accounts["usr_1"] = Account(1, disabled=True)
    with pytest.raises(Unauthorized) as refused:
        decisions.target_of(routes, "usr_1", "agt_1")
    assert refused.value.details == {"reason": "account_disabled"}
    routes = table(Agent(1, "usr_other"))
    routes.accounts["usr_1"] = Account(1, disabled=True)
    with pytest.raises(NotFound):
        decisions.target_of(routes, "usr_1", "agt_1")


@pytest.mark.accept("4.pointer")
def test_the_pointer_alone_decides() -> None:
    routes = table(Agent(1, "usr_1", deployment_id="dep_1"), Deployment(2, "cloudflare", URL))
    routes.deployments["dep_2"] = Deployment(9, "cloudflare", "https://newer.example/")
    assert decisions.target_of(routes, "usr_1", "agt_1").invoke_url == URL


@pytest.mark.accept("7.tiers")
def test_the_tier_gates_the_provider() -> None:
    decisions.check_tier("cloudflare", TIER)
    with pytest.raises(LimitExceeded) as refused:
        decisions.check_tier("agentcore", TIER)
    assert refused.value.details["limitType"] == "agentcoreEnabled"
    allowed = msgspec.structs.replace(TIER, agentcore_enabled=True)
    with pytest.raises(InvalidRequest):
        decisions.check_tier("agentcore", allowed)


@pytest.mark.parametrize(
    ("tokens", "compute_ms", "over"),
    [(99, 999, None), (100, 0, "tokens"), (250, 0, "tokens"), (0, 1000, "computeMs")],
)
def test_budgets(tokens: int, compute_ms: int, over: str | None) -> None:
    totals = Totals(tokens=tokens, compute_ms=compute_ms, generation=1, sequence=1)
    unlimited = msgspec.structs.replace(TIER, tokens=None, compute_ms=None)
    decisions.check_budgets(unlimited, totals, "2026-11")
    decisions.check_budgets(TIER, None, "2026-11")
    if over is None:
        decisions.check_budgets(TIER, totals, "2026-11")
        return
    with pytest.raises(LimitExceeded) as refused:
        decisions.check_budgets(TIER, totals, "2026-11")
    assert refused.value.details["limitType"] == over
    assert refused.value.details["periodKey"] == "2026-11"
    assert not refused.value.retryable
