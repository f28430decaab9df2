"""An invocation, from its admission to the answer, in the order of the contract.

Consumes: HTTP requests, checked by `senders`. Emits: calls to Workers, and one outcome per admitted
call.
Guarantees: no byte goes to a Worker before the invocation is on record; whatever happens to an
admitted call, its outcome is recorded once its answer was written or given up, and no answer waits
for that. Its wall time is without what its caller, or room for its answer, let it wait.
On a repeat (the same idempotency key): the first call's answer, see `repeats`.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import msgspec
from webhost_contracts import ids
from webhost_contracts.invoke import PROTOCOL, InvokeResponse
from webhost_contracts.periods import period_key
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.clock import now_ms
from webhost_kit.errors import LimitExceeded, Problem, RuntimeFailed, Unavailable
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.http import problems
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.metrics import ReadGauge
from webhost_kit.tasks import cancel

from webhost_gateway import decisions, spans
from webhost_gateway.flow_control import FlowControl
from webhost_gateway.ledger.admission import Admission
from webhost_gateway.ledger.idempotency import (
    AlreadyClaimed,
    Idempotency,
)
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.ledger.recording import Recording
from webhost_gateway.model import Invocation, Outcome
from webhost_gateway.refusals import Refusals
from webhost_gateway.repeats import Repeats
from webhost_gateway.request import Request
from webhost_gateway.routing.model import RouteTable
from webhost_gateway.routing.totals import TotalsWatch
from webhost_gateway.senders import Asked, Senders
from webhost_gateway.upstream.failures import HeldUp, NotSent
from webhost_gateway.upstream.stream import ClientStream
from webhost_gateway.upstream.worker import Call, Upstream

_in_flight = ReadGauge(
    "webhost_gateway_calls_in_flight", "Admitted calls that have not ended: what gateways scale by"
)
_held = ReadGauge(
    "webhost_gateway_answer_bytes_held",
    "Bytes taken of ANSWER_BYTES_IN_FLIGHT; where it is all, Workers wait with their answers",
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """An invocation that is on record, the call to make, and what is kept of its answer."""

    invocation: Invocation
    call: Call
    recording: Recording | None


class Invoker:
    """Answers the two invoke endpoints, and that for delegated calls."""

    def __init__(
        self,
        *,
        senders: Senders,
        routes: RouteTable,
        memory: InMemoryProjection,
        totals: TotalsWatch,
        admission: Admission,
        outcomes: Outcomes,
        ledger: Idempotency,
        refusals: Refusals,
        upstream: Upstream,
        answers: ByteBudget,
        timeout_s: float,
        heartbeat_s: float,
    ) -> None:
        self._senders = senders
        self._routes = routes
        self._memory = memory
        self._totals = totals
        self._admission = admission
        self._outcomes = outcomes
        self._ledger = ledger
        self._refusals = refusals
        self._repeats = Repeats(ledger, answers)
        self._upstream = upstream
        self._answers = answers
        self._timeout_ms = round(timeout_s * 1000)
        self._heartbeat_s = heartbeat_s
        self._in_flight = 0
        _in_flight.read(lambda: self._in_flight)
        _held.read(lambda: answers.taken)

    async def answer(self, request: Request) -> None:
        """POST /v1/invoke/{agentId}: the whole answer as JSON."""
        await self._answer(request, await self._senders.user(request, streamed=False))

    async def delegated(self, request: Request) -> None:
        """POST /v1/delegated/invoke/{agentId}: the same, for a user of a trusted back end's."""
        delegated = None
        try:
            delegated = await self._senders.source(request)
            await self._answer(request, self._senders.asked_for(delegated, request.agent_id))
        except Problem as problem:
            self._refusals.note(problem, request, delegated)
            raise

    async def _answer(self, request: Request, asked: Asked) -> None:
        admitted = await self._admit(request, asked, streamed=False)
        if admitted is None:
            return
        call = admitted.call
        async with self._on_record(request, admitted):
            async with self._upstream.answer(call) as answer:
                document = await answer.document()
            spans.ended(request, document.session_id, document.usage)
            body = _as_answered(document, admitted.invocation.trace_id)
            crash_point("gateway.answered")
            call.flow.hold_up()
            if admitted.recording is not None:
                admitted.recording.add(body)
                admitted.recording.end(200, problems.JSON_TYPE)
            await request.answer(200, body)
            crash_point("gateway.written")

    async def stream(self, request: Request) -> None:
        """POST /v1/invoke/{agentId}/stream: the answer as it comes; ends when its client leaves."""
        asked = await self._senders.user(request, streamed=True)
        admitted = await self._admit(request, asked, streamed=True)
        if admitted is None:
            return
        streaming = asyncio.create_task(self._stream(request, admitted))
        gone = asyncio.create_task(request.gone())
        try:
            await asyncio.wait({streaming, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(streaming, gone)
        try:
            if not streaming.cancelled():
                streaming.result()
        finally:
            # Its error's traceback would hold this frame, and the frame its task: a cycle, which
            # keeps all that the call held until the garbage collector comes by.
            del streaming

    async def _stream(self, request: Request, admitted: Admitted) -> None:
        invocation, call = admitted.invocation, admitted.call
        meta = {
            "protocol": PROTOCOL,
            "traceId": invocation.trace_id,
            "invocationId": invocation.id,
            "agentId": invocation.agent_id,
            "deploymentId": invocation.deployment_id,
        }
        client = ClientStream(request, meta, self._heartbeat_s, call.flow, admitted.recording)
        try:
            async with self._on_record(request, admitted):
                try:
                    async with self._upstream.answer(call) as answer:
                        await client.pass_on(answer)
                    spans.ended(request, client.session_id, client.usage)
                    crash_point("gateway.answered")
                except RuntimeFailed as problem:
                    if request.started:
                        _make_final(problem, admitted.recording)
                        await client.fail(problem)
                        await client.end()
                    raise
                await client.end()
                crash_point("gateway.written")
        except RuntimeFailed:
            if not request.started:
                raise

    async def _admit(self, request: Request, asked: Asked, *, streamed: bool) -> Admitted | None:
        """Check and admit the request; None where it is a repeat, which has been answered.

        Raises the Problem of the first check that it fails.
        """
        caller, entitlements = asked.caller, asked.entitlements
        user_id = caller.user_id
        if not self._memory.usable:
            raise Unavailable("The gateway is catching up; try again shortly.")
        caller.require_agent(request.agent_id)
        target = decisions.target_of(self._routes, user_id, request.agent_id)
        decisions.check_tier(target.runtime_provider, entitlements)
        at_ms = now_ms()
        period = period_key(at_ms)
        if not self._totals.loaded:
            raise Unavailable("The gateway is not ready; try again shortly.")
        key_limits = caller.key and caller.key.limits
        invocation = Invocation(
            id=new_id(ids.INVOCATION, at_ms),
            user_id=user_id,
            agent_id=request.agent_id,
            deployment_id=target.deployment_id,
            runtime_provider=target.runtime_provider,
            trace_id=decisions.trace_id_of(asked.invoke)
            or request.trace_id
            or secrets.token_hex(16),
            period_key=period,
            admitted_at_ms=at_ms,
            key_id=caller.key_id,
            key_period=key_limits and key_limits.period_key(at_ms),
        )
        claim = self._ledger.claim(asked.key, invocation) if asked.key is not None else None
        try:
            decisions.check_budgets(entitlements, self._totals.of(user_id, period), period)
            key_requests = key_limits and key_limits.requests
            await self._admission.admit(invocation, entitlements, key_requests, claim)
        except (LimitExceeded, Unavailable, AlreadyClaimed):
            # What is refused may be the repeat of a call that was made.
            if asked.key is not None and await self._repeats.answer(request, asked.key):
                return None
            raise
        crash_point("gateway.admitted")
        request.name_invocation(invocation.id)
        spans.admitted(request, invocation, target.agent_name)
        body = decisions.for_worker(
            asked.invoke, invocation, target, entitlements, self._timeout_ms
        )
        call = Call(
            deployment_id=target.deployment_id,
            invoke_url=target.invoke_url,
            body=msgspec.json.encode(body),
            streamed=streamed,
            traceparent=request.traceparent,
            flow=FlowControl(self._answers, user_id),
        )
        recording = self._ledger.recording(claim) if claim is not None else None
        return Admitted(invocation, call, recording)

    @asynccontextmanager
    async def _on_record(self, request: Request, admitted: Admitted) -> AsyncGenerator[None]:
        """Record the call's outcome, or release it if nothing was sent."""
        started_s = monotonic()
        flow = admitted.call.flow
        self._in_flight += 1
        try:
            yield
        except NotSent:
            self._outcomes.release(admitted.invocation)
            raise
        except (asyncio.CancelledError, HeldUp) as error:
            # The client disconnected, or was waited for: this is not the agent's error.
            self._record(request, admitted, flow.wall_s(started_s), None, error)
            raise
        except Exception as error:
            self._record(request, admitted, flow.wall_s(started_s), "runtime", error)
            raise
        else:
            self._record(request, admitted, flow.wall_s(started_s), None)
        finally:
            self._in_flight -= 1
            flow.release()

    def _record(
        self,
        request: Request,
        admitted: Admitted,
        wall_s: float,
        error_class: str | None,
        error: BaseException | None = None,
    ) -> None:
        outcome = Outcome(
            outcome="succeeded" if error_class is None else "failed",
            error_class=error_class,
            wall_ms=round(wall_s * 1000),
        )
        if error is not None:
            request.span.fail(tracing.error_type_of(error))
        recording = admitted.recording
        if recording is not None and isinstance(error, RuntimeFailed) and not request.started:
            _make_final(error, recording)
            envelope = problems.uncounted(error, request.request_id)
            recording.add(msgspec.json.encode(envelope))
            recording.end(error.status, problems.JSON_TYPE)
        self._outcomes.record(
            admitted.invocation,
            outcome,
            now_ms(),
            request_id=request.request_id,
            traceparent=request.traceparent,
            answer=recording,
        )


def _make_final(problem: RuntimeFailed, recording: Recording | None) -> None:
    """Under an idempotency key the failure is the answer: the same request gets it again."""
    if recording is not None:
        problem.retryable = False


def _as_answered(document: InvokeResponse, trace_id: str) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(document, trace_id=trace_id))
