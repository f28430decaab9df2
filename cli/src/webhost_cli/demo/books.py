"""The demo's checks of telemetry, usage and the rebuild, and of what a deletion leaves behind."""

from typing import Any

from webhost_contracts.errors import ErrorCode
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest
from webhost_local.state import Status

from webhost_cli import bus
from webhost_cli.client import Api
from webhost_cli.demo.calls import Calls
from webhost_cli.demo.edge import Edge
from webhost_cli.demo.life import Agent
from webhost_cli.demo.narrator import Narrator
from webhost_cli.errors import ApiError
from webhost_cli.rebuild import rebuild

_COUNTED_S = 20.0
_GONE_S = 30.0
_MOST_EVENTS = 100


def check_usage(narrator: Narrator, calls: Calls, status: Status) -> None:
    """Check that both sides reported every call, that each counts once, and a rebuild agrees."""
    made = {call.trace_id: call for call in calls.made}

    with narrator.step("Telemetry was accepted for every call"):
        narrator.note(f"{len(made)} calls were made, those that asked for the version included")
        narrator.wait_for(
            "calls that the gateway and the Worker both reported",
            lambda: _sources(calls.api),
            dict.fromkeys(sorted(made), "both"),
            seconds=_COUNTED_S,
        )
        tokens = {event["traceId"]: event["llmTokens"] for event in _events(calls.api)}
        expected = {trace_id: call.tokens for trace_id, call in sorted(made.items())}
        narrator.check("tokens by call", expected=expected, actual=dict(sorted(tokens.items())))

    with narrator.step("Usage is equal to the calls made"):
        used = calls.get("/v1/usage/current")["usage"]
        events = _events(calls.api)
        narrator.check("requests", expected=len(made), actual=used["requests"])
        total = sum(call.tokens for call in made.values())
        narrator.check("tokens", expected=total, actual=used["llmTokens"])
        compute_ms = sum(event["computeMs"] for event in events)
        narrator.check("compute ms", expected=compute_ms, actual=used["computeMs"])
        narrator.check("errors", expected=0, actual=used["errors"])

    with narrator.step("Rebuild the usage from the event stream: no difference"):
        dry = _rebuild(narrator, status, dry_run=True)
        narrator.check("differences of a dry run", expected=(), actual=dry.differences)
        narrator.check("the dry run changed something", expected=False, actual=dry.swapped)
        wet = _rebuild(narrator, status, dry_run=False)
        narrator.check("differences", expected=(), actual=wet.differences)
        narrator.check("the rebuilt usage is in force", expected=True, actual=wet.swapped)
        again = calls.get("/v1/usage/current")["usage"]
        narrator.check("usage is what it was", expected=used, actual=again)


def delete(narrator: Narrator, calls: Calls, agent: Agent, status: Status) -> None:
    """Delete the agent; no call reaches it, and nothing of it is left on the edge."""
    with (
        narrator.step("Delete the agent: nothing of it is left on the edge"),
        Edge(status.cloudflare) as edge,
    ):
        scripts, routes = edge.scripts_of(agent.id), edge.routes_of(agent.deployment_ids)
        narrator.note(f"scripts on the edge: {', '.join(scripts)}")
        narrator.note(f"routes on the edge:  {', '.join(routes)}")
        agent_scripts = [name for name in scripts if name.endswith("-code")]
        fronts = len(scripts) - len(agent_scripts)
        narrator.check("agent scripts before", expected=2, actual=len(agent_scripts))
        narrator.check("routes before, one for each front", expected=fronts, actual=len(routes))
        deleted = calls.delete(f"/v1/agents/{agent.id}")["agent"]
        narrator.check("status", expected="deleted", actual=deleted["status"])
        narrator.wait_for(
            "invoking it is answered by",
            lambda: _refusal(calls.api, agent.id),
            ErrorCode.NOT_FOUND.value,
            seconds=_GONE_S,
        )
        narrator.wait_for(
            "scripts and routes left",
            lambda: edge.scripts_of(agent.id) + edge.routes_of(agent.deployment_ids),
            [],
            seconds=_GONE_S,
        )


def _events(api: Api) -> list[dict[str, Any]]:
    return api.get("/v1/metrics/recent", limit=_MOST_EVENTS)["events"]


def _sources(api: Api) -> dict[str, str]:
    return dict(sorted((event["traceId"], event["source"]) for event in _events(api)))


def _refusal(api: Api, agent_id: str) -> str:
    """The code with which an invocation is refused; `none` if it is answered."""
    try:
        api.post(f"/v1/invoke/{agent_id}", {"input": {"prompt": "Anybody there?"}})
    except ApiError as error:
        return error.body.code
    return "none"


def _rebuild(narrator: Narrator, status: Status, *, dry_run: bool) -> RebuildProgress:
    request = RebuildRequest(dry_run=dry_run)
    narrator.sent("webhost billing rebuild" + (" --dry-run" if dry_run else ""))

    async def work() -> RebuildProgress:
        async with bus.connected(status.nats_url) as client:
            return await rebuild(client, request, lambda _: None)

    result = bus.run(work())
    narrator.got(f"{result.processed} of {result.total} messages replayed")
    return result
