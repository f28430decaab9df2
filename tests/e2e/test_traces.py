"""Traces, as a collector gets them: one of a whole invocation, one of a whole deployment.

Nothing that a user or an agent wrote is in any byte that is exported; where the collector is away
or hangs, callers notice nothing.
"""

import json
import re
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import psutil
import pytest
from webhost_local.data_dir import DataDir
from webhost_local.kept_identities import load

from tests.support.canaries import Canaries
from tests.support.deadline import until
from tests.support.otlp import Collector, ReceivedSpan, collector
from tests.support.stack import Stack, running_stack

NAME = "traced agent"
TOKENS = "webhost.usage.tokens"
REVERSES = """
export default { async invoke(request, context) {
  const said = request.input.messages.at(-1).content;
  if (said.startsWith("throw ")) throw new Error(said + context.env.SECRET);
  console.log(said);
  return [...said].reverse().join("") + context.env.SECRET;
} };
"""


@dataclass
class Traced:
    stack: Stack
    collector: Collector

    @property
    def installation(self) -> str:
        return load(DataDir.at(self.stack.data_dir)).installation_id


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with collector() as receiving, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiving.url)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector")
        with running_stack() as stack:
            yield Traced(stack, receiving)


def new_trace(flags: str = "01") -> tuple[str, str, dict[str, str]]:
    """A trace id, the caller's span, and the header that says so."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}


OF_A_CALL = (
    ("gateway", f"invoke_agent {NAME}"),
    ("gateway", "POST /invoke"),
    ("agent", "invoke_agent"),
    ("telemetry-ingest", "POST /v1/telemetry/report"),
    ("billing", "process telemetry.accepted.v1"),
)


def one(spans: list[ReceivedSpan], name: str, service: str, group: str = "") -> ReceivedSpan:
    found = [
        span
        for span in spans
        if (span.name, span.service) == (name, service)
        and group in (span.attributes.get("messaging.consumer.group.name"), "")
    ]
    assert len(found) == 1, [(span.service, span.name) for span in spans]
    return found[0]


def call_of(traced: Traced, trace_id: str, caller: str) -> dict[str, ReceivedSpan]:
    """The spans of one invocation; whose child each is, of what kind and where is right."""
    spans = traced.collector.wait_for(
        trace_id, *OF_A_CALL, ("billing", "process invocation.finished.v1")
    )
    call = {
        "invoke": one(spans, f"invoke_agent {NAME}", "gateway"),
        "call": one(spans, "POST /invoke", "gateway"),
        "script": one(spans, "invoke_agent", "agent"),
        "report": one(spans, "POST /v1/telemetry/report", "telemetry-ingest"),
        "finished": one(spans, "process invocation.finished.v1", "billing"),
        "accepted": one(spans, "process telemetry.accepted.v1", "billing"),
    }
    ids = {name: span.span_id for name, span in call.items()}
    assert {span.span_id: span.parent_id for span in spans} == {
        ids["invoke"]: caller,
        ids["call"]: ids["invoke"],
        ids["script"]: ids["call"],
        ids["report"]: ids["call"],
        ids["finished"]: ids["invoke"],
        ids["accepted"]: ids["report"],
    }
    kinds = [span.kind for span in call.values()]
    assert kinds == ["server", "client", "internal", "server", "consumer", "consumer"]
    assert {span.namespace for span in spans} == {traced.installation}
    # Tokens are known by their sum alone: those of a direction would be invented.
    said = {name for span in spans for name in span.attributes}
    assert not any(name.startswith("gen_ai.usage.") for name in said)
    return call


@pytest.mark.accept("10.traces")
def test_one_trace_shows_a_whole_invocation(traced: Traced) -> None:
    canaries = Canaries()
    secret, prompt = canaries.new("secret"), canaries.new("prompt", between=" ")
    caller = traced.stack.caller()
    canaries.add("token", caller.token)
    canaries.add("answer", prompt[::-1])
    agent = caller.create_agent(NAME, envVarKeys=["SECRET"])
    secrets_of = f"/v1/agents/{agent['id']}/secrets"
    assert caller.http.post(secrets_of, json={"secrets": {"SECRET": secret}}).status_code == 204
    deployment = caller.deploy(agent["id"], moduleCode=REVERSES)
    caller.invoke(agent["id"], "until a gateway knows it")

    trace_id, span_id, headers = new_trace()
    path = f"/v1/invoke/{agent['id']}"
    body = {"input": {"prompt": prompt}}
    answer = caller.http.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text

    spans = call_of(traced, trace_id, span_id)
    assert not any(span.failed for span in spans.values())
    invoke, call, script = (spans[name] for name in ("invoke", "call", "script"))
    assert invoke.events == ("admitted",)
    assert call.events == ("first_byte",)
    assert invoke.start_ns <= call.start_ns <= call.end_ns <= invoke.end_ns
    assert script.end_ns >= script.start_ns
    said = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": agent["id"],
        "gen_ai.agent.name": NAME,
        "gen_ai.conversation.id": answer.json()["sessionId"],
        "webhost.invocation.id": answer.headers["x-webhost-invocation-id"],
        "webhost.deployment.id": deployment["id"],
        "http.response.status_code": 200,
        TOKENS: answer.json()["usage"]["tokens"],
    }
    assert invoke.attributes.items() >= said.items()
    assert script.attributes["gen_ai.agent.id"] == agent["id"]
    assert script.attributes[TOKENS] == answer.json()["usage"]["tokens"]
    assert spans["finished"].attributes["messaging.system"] == "nats"

    # A stream, a failure and a refusal: all of them in what is scanned for canaries.
    streamed, span_id, headers = new_trace()
    with caller.http.stream("POST", f"{path}/stream", json=body, headers=headers) as response:
        [used] = re.findall(r"event: usage\nid: \d+\ndata: (.*)\n", response.read().decode())
    spans = call_of(traced, streamed, span_id)
    assert not any(span.failed for span in spans.values())
    invoke, script = spans["invoke"], spans["script"]
    assert invoke.events == ("admitted",)
    assert spans["call"].events == ("first_byte",)
    assert invoke.attributes["gen_ai.conversation.id"]
    tokens = json.loads(used)["tokens"]
    assert (invoke.attributes[TOKENS], script.attributes[TOKENS]) == (tokens, tokens)

    failing, span_id, headers = new_trace()
    thrown = {"input": {"prompt": f"throw {prompt}"}}
    assert caller.http.post(path, json=thrown, headers=headers).status_code == 502
    spans = call_of(traced, failing, span_id)
    for name in "invoke", "call":
        failed = spans[name]
        assert (failed.failed, failed.attributes["error.type"]) == (True, "upstream_status")
    assert spans["invoke"].attributes["http.response.status_code"] == 502
    # No answer, no usage; its Worker reports an estimate.
    assert TOKENS not in spans["invoke"].attributes
    assert spans["script"].attributes[TOKENS] > 0
    assert {name for name, span in spans.items() if span.failed} == {"invoke", "call", "script"}

    refused, span_id, headers = new_trace()
    assert caller.http.post(path, json={"in": prompt}, headers=headers).status_code == 400
    [refusal] = traced.collector.wait_for(refused, ("gateway", "invoke_agent"))
    assert (refusal.parent_id, refusal.kind) == (span_id, "server")
    assert (refusal.failed, refusal.attributes["webhost.error.code"]) == (False, "INVALID_REQUEST")

    exported = b"".join(traced.collector.bodies)
    assert agent["id"].encode() in exported
    assert canaries.hits("exported", exported) == []
    assert traced.collector.headers[0]["authorization"] == "Bearer of-the-collector"


@pytest.mark.accept("10.traces")
def test_without_a_caller_a_trace_begins_at_the_gateway(traced: Traced) -> None:
    caller = traced.stack.caller()
    agent = caller.create_agent(NAME)
    caller.deploy(agent["id"])
    trace_id = caller.invoke(agent["id"], "whose trace?")["traceId"]
    spans = traced.collector.wait_for(trace_id, *OF_A_CALL)
    assert one(spans, f"invoke_agent {NAME}", "gateway").parent_id is None

    # Whether it is recorded is not the caller's decision.
    unsampled, span_id, headers = new_trace("00")
    body = {"input": {"prompt": "for the collector"}}
    assert caller.http.post(f"/v1/invoke/{agent['id']}", json=body, headers=headers).is_success
    spans = traced.collector.wait_for(unsampled, *OF_A_CALL)
    assert one(spans, f"invoke_agent {NAME}", "gateway").parent_id == span_id


@pytest.mark.accept("10.traces")
def test_one_trace_shows_a_whole_deployment(traced: Traced) -> None:
    caller = traced.stack.caller()
    agent = caller.create_agent(NAME)
    trace_id, span_id, headers = new_trace()
    started = caller.http.post(f"/v1/agents/{agent['id']}/deploy", json={}, headers=headers)
    assert started.status_code == 202, started.text
    caller.deploy_ended(started.json()["deployment"]["id"])

    spans = traced.collector.wait_for(
        trace_id,
        ("api", "POST /v1/agents/{agentId}/deploy"),
        ("api", "publish deployment.deploy.v1"),
        ("deployer", "process deployment.deploy.v1"),
        ("deployer", "step succeed"),
        *[("api", "process deployment.succeeded.v1")] * 2,  # the reactor and the history
        ("api", "publish agent.deployment_activated.v1"),
        ("gateway", "process agent.deployment_activated.v1"),
    )
    request = one(spans, "POST /v1/agents/{agentId}/deploy", "api")
    command = one(spans, "process deployment.deploy.v1", "deployer")
    succeeded = one(spans, "process deployment.succeeded.v1", "api", "api.reactor")
    assert request.parent_id == span_id
    assert request.attributes["http.response.status_code"] == 202
    assert command.parent_id == request.span_id
    assert one(spans, "publish deployment.deploy.v1", "api").parent_id == request.span_id
    steps = [span for span in spans if span.name.startswith("step ")]
    names = ["validate", "session_store", "upload", "route", "probe", "secrets", "succeed"]
    assert [span.name for span in steps] == [f"step {name}" for name in names]
    assert {span.parent_id for span in steps} == {command.span_id}
    outcomes = [span.attributes.get("webhost.step.outcome") for span in steps[:-1]]
    assert outcomes == ["succeeded"] * 6

    within = {step.name: step.span_id for step in steps}
    calls = {(c.name, c.parent_id) for c in spans if (c.kind, c.service) == ("client", "deployer")}
    upload, route = within["step upload"], within["step route"]
    assert ("PUT /workers/scripts/{id}", upload) in calls
    assert ("POST /workers/routes", route) in calls
    probe = within["step probe"]
    assert any(parent == probe and "__webhost/probe" in name for name, parent in calls)

    assert succeeded.parent_id == command.span_id
    for name, service in (
        ("publish agent.deployment_activated.v1", "api"),
        ("process agent.deployment_activated.v1", "gateway"),
    ):
        assert one(spans, name, service).parent_id == succeeded.span_id
    assert {span.service for span in spans} >= {"api", "deployer", "gateway"}


@pytest.mark.accept("10.collector-away")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["hangs", "answers 503", "is away"])
def test_a_collector_that_hangs_fails_or_is_away_is_noticed_by_nobody(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as listening:
        receiving = listening.enter_context(collector())
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiving.url)
        with running_stack() as stack:
            caller = stack.caller()
            agent = caller.create_agent(NAME)
            caller.deploy(agent["id"])
            caller.invoke(agent["id"], "until a gateway knows it")
            path = f"/v1/invoke/{agent['id']}"
            quick = _median_ms(caller.http, path)
            asked = receiving.requests
            if fault == "hangs":
                receiving.hangs.set()
            elif fault == "is away":
                listening.close()
            else:
                receiving.status = 503
            slow = _median_ms(caller.http, path)
            if fault != "is away":
                until(lambda: receiving.requests > asked, "an export to fail", seconds=20)
            if fault == "hangs":
                gateway = psutil.Process(stack.pids()["gateway"])
                before = gateway.memory_info().rss
                # More spans than wait: each refusal of a known sender is one.
                other = stack.caller()
                for _ in range(5_000):
                    other.http.post(path, json={})
                assert gateway.memory_info().rss - before < 32 * 1024 * 1024
            until(lambda: _dropped(stack, "refused") > 0, "spans to be given up", seconds=30)
            while_lost = _median_ms(caller.http, path)
            assert max(slow, while_lost) < 3 * quick + 20, (quick, slow, while_lost)
            began = time.monotonic()
            assert stack.stop() == 0
            assert time.monotonic() - began < 30


def _median_ms(http: httpx.Client, path: str) -> float:
    taken: list[float] = []
    for _ in range(40):
        began = time.monotonic()
        assert http.post(path, json={"input": {"prompt": "hello"}}).is_success
        taken.append((time.monotonic() - began) * 1000)
    return statistics.median(taken)


def _dropped(stack: Stack, reason: str) -> float:
    series = f'webhost_spans_dropped_total{{reason="{reason}"}} '
    [line] = [line for line in stack.metrics("gateway").splitlines() if line.startswith(series)]
    return float(line.removeprefix(series))
