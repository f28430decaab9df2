"""Admission: takes one request of the quota and one slot of the concurrency limit, or refuses.

Guarantees: with any number of gateways, no more than the tier's requests of a period are ever
admitted, and no more than its concurrency are open at once; an admitted invocation is durable
before its call begins; nothing is admitted without this gateway's lease. Requests that arrive
together share one statement. Each is decided within WAIT_S or refused; the queue is bounded, and a
request whose caller has disconnected is no longer admitted. A user at the concurrency limit does
not delay other users' requests, and its own are decided in the order of their arrival: none is
refused because a later one took the place that an ended call made free. Calls with an idempotency
key are decided by a statement of their own, after those without, which claims their keys too.
On a failure of unknown outcome: the caller is refused, and the call is released, since it was
not made. If the statement is executed later after all, it admits nothing.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from time import monotonic

from prometheus_client import Histogram
from webhost_contracts.entitlements import Entitlements
from webhost_kit.batching import Batcher
from webhost_kit.database.statements import NotRun, Statements
from webhost_kit.errors import Fault, LimitExceeded, Unavailable
from webhost_kit.process.metrics import MOMENT_S
from webhost_kit.tasks import run_together

from webhost_gateway.ledger.admission_statement import AdmissionRequest, AdmissionStatement
from webhost_gateway.ledger.idempotency import AlreadyClaimed
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.model import Claim, Invocation

WAIT_S = 1.0
"""Callers wait no longer than this for a statement."""
MAX_WAITING = 5_000

_batch_size = Histogram(
    "webhost_gateway_admission_batch_requests",
    "Calls that shared one statement of the admission",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
_duration = Histogram(
    "webhost_gateway_admission_duration_seconds",
    "Seconds that a call waited for its admission, by how it was decided: `admitted`, `requests`, "
    "`concurrency` (the limits of the plan or key), `repeat` (its idempotency key is taken), "
    "`unavailable`, or `left` (its client did)",
    ["outcome"],
    buckets=MOMENT_S,
)
_admitted = _duration.labels("admitted")


@dataclass(slots=True)
class _Waiting:
    request: AdmissionRequest
    admitted: asyncio.Future[None]
    claim: Claim | None
    last_try: bool = False
    at_limit: bool = False
    """Whether it waits behind calls of its own user, who is at the limit of concurrency."""


def _is_wanted(waiting: _Waiting) -> bool:
    return not waiting.admitted.done()


class Admission:
    """Admits invocations, batched."""

    def __init__(self, statements: Statements, lease: Lease, outcomes: Outcomes) -> None:
        self._statement = AdmissionStatement(statements, lease)
        self._lease = lease
        self._outcomes = outcomes
        self._batcher = Batcher(
            self._settle, name="admission", max_waiting=MAX_WAITING, wanted=_is_wanted
        )
        self._crowded = Batcher(self._try_again, name="admission_at_limit", max_waiting=MAX_WAITING)
        self._crowds: Counter[str] = Counter()
        """How many requests of each user are in `_crowded`."""

    async def run(self) -> None:
        """Admit until cancelled."""
        await run_together(self._batcher.run(), self._crowded.run())

    async def admit(
        self,
        invocation: Invocation,
        limits: Entitlements,
        max_key_requests: int | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Return when the invocation is on record, and its idempotency key claimed.

        `max_key_requests` are those of its API key, in the invocation's `key_period`.

        Raises LimitExceeded (`requests`, `concurrency`), Unavailable or AlreadyClaimed.
        """
        loop = asyncio.get_running_loop()
        request = AdmissionRequest(
            invocation, limits.requests, limits.concurrency, max_key_requests
        )
        waiting = _Waiting(request, loop.create_future(), claim)
        began_s = monotonic()
        _enqueue(self._batcher, waiting)
        clock = loop.call_later(WAIT_S, _refuse_late, waiting)
        try:
            await waiting.admitted
        except BaseException as error:
            _duration.labels(_outcome_of(error)).observe(monotonic() - began_s)
            raise
        finally:
            clock.cancel()
        _admitted.observe(monotonic() - began_s)

    async def _try_again(self, batch: list[_Waiting]) -> None:
        # Calls that ended here but are not recorded yet make room once they are.
        await self._outcomes.catch_up()
        for waiting in batch:
            waiting.last_try = True
            waiting.at_limit = False
        self._batcher.put_back(batch)
        self._crowds -= Counter(waiting.request.invocation.user_id for waiting in batch)

    def _wait_for_room(self, waiting: _Waiting) -> None:
        waiting.at_limit = True
        if _enqueue(self._crowded, waiting):
            self._crowds[waiting.request.invocation.user_id] += 1

    def _first_in_line(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Return those to decide now; the others queue behind earlier ones of their user."""
        if not self._crowds:
            return batch
        now: list[_Waiting] = []
        for waiting in batch:
            if waiting.last_try or waiting.request.invocation.user_id not in self._crowds:
                now.append(waiting)
            else:
                self._wait_for_room(waiting)
        return now

    async def _settle(self, batch: list[_Waiting]) -> None:
        batch = self._first_in_line(batch)
        if unkeyed := [waiting for waiting in batch if waiting.claim is None]:
            await self._admit_together(unkeyed)
        if keyed := [waiting for waiting in batch if waiting.claim is not None]:
            await self._admit_together(keyed)

    async def _admit_together(self, batch: list[_Waiting]) -> None:
        _batch_size.observe(len(batch))
        self._outcomes.expect(waiting.request.invocation for waiting in batch)
        try:
            claims = [waiting.claim for waiting in batch if waiting.claim is not None]
            verdicts = await self._statement.execute([it.request for it in batch], claims)
        except Unavailable as error:
            for waiting in batch:
                if isinstance(error, NotRun):
                    self._outcomes.forget(waiting.request.invocation)
                else:
                    self._outcomes.release(waiting.request.invocation)
                _refuse(waiting, error)
            return
        for place, waiting in enumerate(batch, start=1):
            verdict = verdicts.get(place)
            if verdict is None or not verdict.admitted:
                self._outcomes.forget(waiting.request.invocation)
            if verdict is None:
                # The lease, or the quota's row, is missing: the database may be another one.
                self._statement.forget()
                self._lease.renew_soon()
                _refuse(waiting, Unavailable("The gateway is not ready; try again shortly."))
            elif verdict.admitted is None:
                _refuse(waiting, AlreadyClaimed())
            elif (refusal := verdict.refusal(waiting.request)) is None:
                self._admitted(waiting)
            elif refusal.retryable and not waiting.last_try:
                self._wait_for_room(waiting)
            else:
                _refuse(waiting, refusal)

    def _admitted(self, waiting: _Waiting) -> None:
        if waiting.admitted.done():
            self._outcomes.release(waiting.request.invocation)
        else:
            waiting.admitted.set_result(None)


def _outcome_of(error: BaseException) -> str:
    match error:
        case LimitExceeded():
            return str(error.details["limitType"])
        case AlreadyClaimed():
            return "repeat"
        case asyncio.CancelledError():
            return "left"
        case _:
            return "unavailable"


def _enqueue(batcher: Batcher[_Waiting], waiting: _Waiting) -> bool:
    try:
        batcher.add(waiting)
    except asyncio.QueueFull:
        _refuse_late(waiting)
        return False
    return True


def _refuse_late(waiting: _Waiting) -> None:
    fault: Fault = "others" if waiting.at_limit else "ours"
    _refuse(waiting, Unavailable("The gateway is overloaded; try again shortly.", fault=fault))


def _refuse(waiting: _Waiting, problem: Exception) -> None:
    if not waiting.admitted.done():
        waiting.admitted.set_exception(problem)
