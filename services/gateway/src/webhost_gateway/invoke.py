"""An invocation, from the request to the answer, in the order of the contract.

Consumes: HTTP requests. Emits: calls to Workers, and one outcome per admitted call.
Guarantees: no byte goes to a Worker before the invocation is on record; whatever happens to an
admitted call, its outcome is recorded once its answer was written or given up, and no answer waits
for that. Its wall time is without what its caller, or room for its answer, let it wait.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import msgspec
from webhost_contracts import ids
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.invoke import PROTOCOL, InvokeResponse
from webhost_contracts.periods import period_key
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.clock import now_ms
from webhost_kit.errors import RuntimeFailed, Unavailable
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.http.bodies import SMALL_BYTES, Bodies
from webhost_kit.http.rate_limiter import RateLimiter, Share
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.tasks import cancel

from webhost_gateway import decisions
from webhost_gateway.callers import Callers
from webhost_gateway.ledger.admission import Admission
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.model import Invocation, Outcome
from webhost_gateway.routes import MAX_BODY_BYTES, Request
from webhost_gateway.routing.model import RouteTable
from webhost_gateway.routing.totals import TotalsWatch
from webhost_gateway.upstream.flow_control import FlowControl
from webhost_gateway.upstream.stream import ClientStream
from webhost_gateway.upstream.worker import Call, HeldUp, NotSent, Upstream


@dataclass(frozen=True)
class CallLimits:
    """The limits of every call. Times are seconds; rates are requests per minute."""

    tiers: dict[str, Entitlements]
    timeout_s: float
    heartbeat_s: float
    agent_requests_per_minute: int | None


class Invoker:
    """Answers the two invoke endpoints."""

    def __init__(
        self,
        *,
        callers: Callers,
        routes: RouteTable,
        memory: InMemoryProjection,
        totals: TotalsWatch,
        admission: Admission,
        outcomes: Outcomes,
        upstream: Upstream,
        answers: ByteBudget,
        limits: CallLimits,
        share: Share,
    ) -> None:
        self._callers = callers
        self._routes = routes
        self._memory = memory
        self._totals = totals
        self._admission = admission
        self._outcomes = outcomes
        self._upstream = upstream
        self._answers = answers
        self._bodies = Bodies()
        self._limits = limits
        self._user_rate = RateLimiter("user", share=share)
        self._agent_rate = RateLimiter("agent", share=share)

    async def answer(self, request: Request) -> None:
        """POST /v1/invoke/{agentId}: the whole answer as JSON."""
        invocation, call = await self._admit(request, streamed=False)
        async with self._on_record(request, invocation, call):
            async with self._upstream.answer(call) as answer:
                body = _as_answered(await answer.document(), invocation.trace_id)
            crash_point("gateway.answered")
            call.flow.hold_up()
            await request.answer(200, body)

    async def stream(self, request: Request) -> None:
        """POST /v1/invoke/{agentId}/stream: the answer as it comes; ends when its client leaves."""
        invocation, call = await self._admit(request, streamed=True)
        streaming = asyncio.create_task(self._stream(request, invocation, call))
        gone = asyncio.create_task(request.gone())
        try:
            await asyncio.wait({streaming, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(streaming, gone)
        if not streaming.cancelled():
            streaming.result()

    async def _stream(self, request: Request, invocation: Invocation, call: Call) -> None:
        meta = {
            "protocol": PROTOCOL,
            "traceId": invocation.trace_id,
            "invocationId": invocation.id,
            "agentId": invocation.agent_id,
            "deploymentId": invocation.deployment_id,
        }
        client = ClientStream(request, meta, self._limits.heartbeat_s, call.flow)
        try:
            async with self._on_record(request, invocation, call):
                try:
                    async with self._upstream.answer(call) as answer:
                        await client.pass_on(answer)
                    crash_point("gateway.answered")
                except RuntimeFailed as problem:
                    if request.started:
                        await client.fail(problem)
                        await client.end()
                    raise
                await client.end()
        except RuntimeFailed:
            if not request.started:
                raise

    async def _admit(self, request: Request, *, streamed: bool) -> tuple[Invocation, Call]:
        """Check and admit the request. Raises the Problem of the first check that it fails."""
        caller = await self._callers.caller(request.authorization)
        user_id = caller.user_id
        entitlements = self._entitlements_of(user_id)
        self._check_rate(user_id, request.agent_id, entitlements)
        caller.require_scope("invoke")
        asked = decisions.parse(await self._body(request, user_id))
        if not self._memory.usable:
            raise Unavailable("The gateway is catching up; try again shortly.")
        caller.require_agent(request.agent_id)
        target = decisions.target_of(self._routes, user_id, request.agent_id)
        decisions.check_tier(target.runtime_provider, entitlements)
        at_ms = now_ms()
        period = period_key(at_ms)
        if not self._totals.loaded:
            raise Unavailable("The gateway is not ready; try again shortly.")
        decisions.check_budgets(entitlements, self._totals.of(user_id, period), period)
        key_limits = caller.key and caller.key.limits
        invocation = Invocation(
            id=new_id(ids.INVOCATION, at_ms),
            user_id=user_id,
            agent_id=request.agent_id,
            deployment_id=target.deployment_id,
            runtime_provider=target.runtime_provider,
            trace_id=decisions.trace_id_of(asked) or secrets.token_hex(16),
            period_key=period,
            admitted_at_ms=at_ms,
            key_id=caller.key_id,
            key_period=key_limits and key_limits.period_key(at_ms),
        )
        await self._admission.admit(invocation, entitlements, key_limits and key_limits.requests)
        crash_point("gateway.admitted")
        timeout_ms = round(self._limits.timeout_s * 1000)
        body = decisions.for_worker(asked, invocation, target, entitlements, timeout_ms)
        return invocation, Call(
            deployment_id=target.deployment_id,
            invoke_url=target.invoke_url,
            body=msgspec.json.encode(body),
            streamed=streamed,
            traceparent=request.traceparent,
            flow=FlowControl(self._answers, user_id),
        )

    async def _body(self, request: Request, user_id: str) -> bytes:
        size = min(request.announced(MAX_BODY_BYTES), MAX_BODY_BYTES)
        if size <= SMALL_BYTES:
            return await request.body(MAX_BODY_BYTES)
        async with self._bodies.reserve(user_id, size):
            return await request.body(MAX_BODY_BYTES)

    def _entitlements_of(self, user_id: str) -> Entitlements:
        account = self._routes.accounts.get(user_id)
        tiers = self._limits.tiers
        return tiers[known_tier(tiers, account and account.tier)]

    def _check_rate(self, user_id: str, agent_id: str, entitlements: Entitlements) -> None:
        now_s = monotonic()
        limit = entitlements.requests_per_minute
        self._user_rate.acquire(user_id, limit, now_s)
        agent = self._routes.agents.get(agent_id)
        # Only for a user's own agents: others must not use up an agent's rate.
        if agent is not None and agent.user_id == user_id:
            limit = min(limit, self._limits.agent_requests_per_minute or limit)
            self._agent_rate.acquire(agent_id, limit, now_s)

    @asynccontextmanager
    async def _on_record(
        self, request: Request, invocation: Invocation, call: Call
    ) -> AsyncGenerator[None]:
        """Record the call's outcome, or release it if nothing was sent."""
        started_s = monotonic()
        try:
            yield
        except NotSent:
            self._outcomes.release(invocation)
            raise
        except (asyncio.CancelledError, HeldUp):
            # The client disconnected, or was waited for: this is not the agent's error.
            self._record(request, invocation, call.flow.wall_s(started_s), None)
            raise
        except Exception:
            self._record(request, invocation, call.flow.wall_s(started_s), "runtime")
            raise
        else:
            self._record(request, invocation, call.flow.wall_s(started_s), None)
        finally:
            call.flow.release()

    def _record(
        self, request: Request, invocation: Invocation, wall_s: float, error_class: str | None
    ) -> None:
        outcome = Outcome(
            outcome="succeeded" if error_class is None else "failed",
            error_class=error_class,
            wall_ms=round(wall_s * 1000),
        )
        self._outcomes.record(
            invocation,
            outcome,
            now_ms(),
            request_id=request.request_id,
            traceparent=request.traceparent,
        )


def _as_answered(document: InvokeResponse, trace_id: str) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(document, trace_id=trace_id))
