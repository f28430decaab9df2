"""Pure checks of an invocation, in the order in which the gateway makes them."""

import re
from dataclasses import dataclass

import msgspec
from webhost_contracts import api_keys
from webhost_contracts.delegation import DelegatedRequest
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.invoke import (
    PROTOCOL,
    TRACE_ID_PATTERN,
    InvokeRequest,
    Limits,
    Message,
    NamedDeployment,
    WorkerInput,
    WorkerRequest,
)
from webhost_contracts.totals import Totals
from webhost_kit.errors import (
    AccountDisabled,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unauthorized,
    Unavailable,
)
from webhost_kit.http.decoding import decode

from webhost_gateway.model import Invocation
from webhost_gateway.routing.model import RouteTable

AGENTCORE = "agentcore"
BUILT_PROVIDERS = frozenset({"cloudflare"})

_TRACE_ID = re.compile(TRACE_ID_PATTERN)
_request = msgspec.json.Decoder(InvokeRequest)
_delegated = msgspec.json.Decoder(DelegatedRequest)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an agent's invocations go now."""

    deployment_id: str
    runtime_provider: str
    invoke_url: str
    key_version: int
    key_generation: int
    agent_name: str = ""


def parse(body: bytes) -> InvokeRequest:
    """Return the request in this body. Raises InvalidRequest, with the field at fault."""
    request = decode(_request, body)
    _check_input(request, [])
    return request


def parse_delegated(body: bytes) -> DelegatedRequest:
    """Return the delegated request in this body. Raises InvalidRequest, with the field at fault."""
    request = decode(_delegated, body)
    _check_input(request.invoke, ["invoke"])
    return request


def _check_input(request: InvokeRequest, path: list[str | int]) -> None:
    if (request.input.prompt is None) == (request.input.messages is None):
        raise InvalidRequest.at([*path, "input"], "Send either a prompt or messages.")


def trace_id_of(request: InvokeRequest) -> str | None:
    """Return the caller's trace id where it is an acceptable one."""
    given = request.trace_id
    if given is None and request.metadata is not None:
        given = request.metadata.trace_id
    if given is None or not _TRACE_ID.fullmatch(given) or api_keys.in_text(given):
        return None
    return given


def for_worker(
    request: InvokeRequest,
    invocation: Invocation,
    target: Target,
    entitlements: Entitlements,
    timeout_ms: int,
) -> WorkerRequest:
    """Return the normalized request; a prompt becomes one user message."""
    messages = request.input.messages
    if messages is None:
        messages = (Message("user", request.input.prompt or ""),)
    metadata = request.metadata
    trace_id = invocation.trace_id
    return WorkerRequest(
        protocol=PROTOCOL,
        invocation_id=invocation.id,
        trace_id=trace_id,
        admitted_at_ms=invocation.admitted_at_ms,
        timeout_ms=timeout_ms,
        deployment=NamedDeployment(
            user_id=invocation.user_id,
            agent_id=invocation.agent_id,
            key_version=target.key_version,
            key_generation=target.key_generation,
            limits=Limits.of(entitlements),
        ),
        input=WorkerInput(messages),
        session_id=request.session_id,
        options=request.options,
        metadata=metadata and msgspec.structs.replace(metadata, trace_id=trace_id),
    )


def target_of(routes: RouteTable, user_id: str, agent_id: str) -> Target:
    """Return where this user's agent answers.

    Raises NotFound (not there, deleted, or another user's), Unauthorized (the account or the agent
    is disabled), Conflict (no active deployment) or Unavailable (its address is not known here
    yet).
    """
    agent = routes.agents.get(agent_id)
    if agent is None or agent.user_id != user_id or agent.deleted_at_ms is not None:
        raise agent_not_found()
    account = routes.accounts.get(user_id)
    if account is not None and account.disabled:
        raise AccountDisabled
    if agent.disabled:
        raise Unauthorized("The agent is disabled.", details={"reason": "agent_disabled"})
    if agent.deployment_id is None:
        raise Conflict("The agent has no active deployment.")
    deployment = routes.deployments.get(agent.deployment_id)
    if deployment is None or deployment.invoke_url is None:
        raise Unavailable("The active deployment has no address yet; try again shortly.")
    return Target(
        agent.deployment_id,
        deployment.runtime_provider,
        deployment.invoke_url,
        deployment.key_version,
        deployment.key_generation,
        agent.name,
    )


def agent_not_found() -> NotFound:
    """Return the one answer for an agent that is missing, deleted, or not the caller's."""
    return NotFound("There is no such agent.")


def check_tier(provider: str, entitlements: Entitlements) -> None:
    """Raise where the tier, or the product, does not have this runtime provider."""
    if provider == AGENTCORE and not entitlements.agentcore_enabled:
        raise LimitExceeded(
            "The plan does not include this runtime provider.",
            details={"limitType": "agentcoreEnabled", "suggestedAction": "upgrade"},
        )
    if provider not in BUILT_PROVIDERS:
        raise InvalidRequest.at([], f"The runtime provider {provider} is not available.")


def check_budgets(entitlements: Entitlements, totals: Totals | None, period_key: str) -> None:
    """Raise LimitExceeded if charges have reached the token or compute limit."""
    if totals is None:
        return
    if entitlements.tokens is not None and totals.tokens >= entitlements.tokens:
        raise over_limit("tokens", period_key, totals.tokens, entitlements.tokens)
    if entitlements.compute_ms is not None and totals.compute_ms >= entitlements.compute_ms:
        raise over_limit("computeMs", period_key, totals.compute_ms, entitlements.compute_ms)


def over_limit(limit_type: str, period_key: str, current: int, limit: int) -> LimitExceeded:
    """Return the refusal of a call over one of the plan's limits."""
    passing = limit_type == "concurrency"
    return LimitExceeded(
        "Too many invocations are running." if passing else "The plan's limit has been reached.",
        details={
            "limitType": limit_type,
            "periodKey": period_key,
            "current": current,
            "limit": limit,
            "suggestedAction": "retry" if passing else "upgrade",
        },
        retryable=passing,
        retry_after_s=1 if passing else None,
    )


def over_key_limit(key_id: str, period_key: str, current: int, limit: int) -> LimitExceeded:
    """Return the refusal of a call over the limit of its API key."""
    return LimitExceeded(
        "The limit of this API key has been reached.",
        details={
            "limitType": "requests",
            "keyId": key_id,
            "periodKey": period_key,
            "current": current,
            "limit": limit,
            "suggestedAction": "wait",
        },
    )
