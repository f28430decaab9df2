"""Refused delegated calls, for the audit of the user and for the operator's log.

Emits: `delegation.refused.v1` on EVENTS, where the call can be attributed: its signature was good,
and it was for a user of whom the gateway knows something. Everything else is for the log alone.
Guarantees: only what is refused costs anything, and no answer waits. At most PER_MINUTE of each
user, and of what cannot be attributed as a whole, are written down; of each source's, at most
PER_SOURCE are looked up. They are kept in no table (`unstored`): what is lost on the way is in the
log and not in the audit.
"""

import structlog
from prometheus_client import Counter
from webhost_contracts.events import DelegationRefused
from webhost_kit.allowance import Allowance
from webhost_kit.clock import now_ms
from webhost_kit.errors import (
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Problem,
    RateLimited,
    Unauthenticated,
    Unauthorized,
)
from webhost_kit.eventsourcing.unstored import UnstoredFacts

from webhost_gateway.request import Request
from webhost_gateway.routing.model import RouteTable
from webhost_gateway.senders import Delegated

log = structlog.get_logger(__name__)

PER_MINUTE = 10
PER_SOURCE = 300
"""Each minute, too."""

_refused = Counter(
    "webhost_gateway_delegated_refused_total",
    "Delegated calls that were refused, by the error's code",
    ["code"],
)


class Refusals:
    """Writes down what was refused to back ends."""

    def __init__(self, facts: UnstoredFacts, routes: RouteTable) -> None:
        self._facts = facts
        self._routes = routes
        self._per_user = Allowance(PER_MINUTE)
        self._per_source = Allowance(PER_SOURCE)

    def note(self, problem: Problem, request: Request, delegated: Delegated | None) -> None:
        """Take note of a failed call, if it was refused; `delegated` is None before it is known."""
        if not is_refusal(problem):
            return
        _refused.labels(problem.code).inc()
        at_ms = now_ms()
        user_id = delegated and delegated.user_id
        left = self._per_user.take(user_id, at_ms)
        if delegated is not None and left > 0 and not self._is_known(delegated, at_ms):
            user_id = None
            left = self._per_user.take(None, at_ms)
        if left == 0:
            return
        reason = problem.details.get("reason") or problem.details.get("limitType")
        log.warning(
            "delegated call refused",
            code=problem.code,
            reason=reason,
            source=delegated and delegated.source,
            user_id=user_id,
            request_id=request.request_id,
            last_line_for_now=left == 1,
        )
        if delegated is None or user_id is None:
            return
        agent = self._routes.agents.get(request.agent_id)
        is_theirs = agent is not None and agent.user_id == user_id
        fact = DelegationRefused(
            source=delegated.source,
            code=problem.code,
            reason=reason,
            agent_id=request.agent_id if is_theirs else None,
        )
        self._facts.add(
            fact,
            user_id=user_id,
            at_ms=at_ms,
            actor=f"source:{fact.source}",
            request_id=request.request_id,
            traceparent=request.traceparent,
        )

    def _is_known(self, delegated: Delegated, at_ms: int) -> bool:
        """Say whether it is for a user of ours. All agents are looked through, so only so often."""
        user_id = delegated.user_id
        if user_id in self._routes.accounts:
            return True
        if self._per_source.take(delegated.source, at_ms) == 0:
            return False
        return any(agent.user_id == user_id for agent in self._routes.agents.values())


def is_refusal(problem: Problem) -> bool:
    """Say whether a call was refused; it was not where something is away, or the first one runs."""
    if isinstance(problem, Conflict):
        return not problem.retryable
    refused = (Unauthenticated, Unauthorized, NotFound, LimitExceeded, RateLimited, InvalidRequest)
    return isinstance(problem, refused)
