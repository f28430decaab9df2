"""What the gateway's spans say, by the semantic conventions that docs/observability.md pins.

Nothing here is content: ids, the agent's name, counts and codes.
"""

from webhost_contracts.invoke import Usage
from webhost_kit.errors import Problem
from webhost_kit.process import tracing

from webhost_gateway.model import Invocation
from webhost_gateway.request import Request

_OF_ALL: tracing.Attributes = {
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.provider.name": "webhost",
    "http.request.method": "POST",
}
_OF_CALL: tracing.Attributes = {"http.request.method": "POST", "url.template": "/invoke"}


def of_request(request: Request, method: str) -> tracing.Span:
    """Return the span of a request to call an agent, to be entered; it begins a trace, or goes on
    with its caller's. Nothing is recorded until the sender is known.
    """
    if method != "POST":
        return tracing.NO_SPAN
    span = request.span = tracing.arriving(
        "invoke_agent", traceparent=request.traceparent, attributes=_OF_ALL
    )
    if span.context is not None:
        if request.traceparent is None:
            request.trace_id = span.context.trace_id
        request.traceparent = span.traceparent
    return span


def sender_known(request: Request) -> None:
    """Say that it is known who sends it: from here on it may be recorded."""
    span = request.span
    if span.context is not None:
        span.accept()
        request.traceparent = span.traceparent
        span.set("webhost.request.id", request.request_id)


def admitted(request: Request, invocation: Invocation, name: str) -> None:
    """Say which invocation it became."""
    span = request.span
    if not span.recorded:
        return
    span.event("admitted")
    span.set("gen_ai.agent.id", invocation.agent_id)
    if name:
        span.name(f"invoke_agent {name}")
        span.set("gen_ai.agent.name", name)
    span.set("webhost.invocation.id", invocation.id)
    span.set("webhost.deployment.id", invocation.deployment_id)
    span.set("webhost.runtime_provider", invocation.runtime_provider)
    span.set("webhost.trace_id", invocation.trace_id)


def ended(request: Request, session_id: str | None, usage: Usage | None) -> None:
    """Say what the agent's answer told. Its tokens are not known by direction."""
    span = request.span
    span.set("gen_ai.conversation.id", session_id)
    if usage is not None:
        span.set("webhost.usage.tokens", usage.tokens)


def refused(request: Request, problem: Problem) -> None:
    """Say why it was refused, or how it failed."""
    request.span.set("webhost.error.code", problem.code)
    if problem.status >= 500:
        request.span.fail(problem.error_type)


def answered(request: Request) -> None:
    """Say with which status it was answered."""
    request.span.set("http.response.status_code", request.status or None)


def of_call(host: str) -> tracing.Span:
    """Return the span of the call to a Worker, to be entered."""
    span = tracing.span("POST /invoke", "client", attributes=_OF_CALL)
    span.set("server.address", host)
    return span
