"""Repeats: a call whose key is another call's is answered as that one was.

Guarantees: nothing runs and nothing is counted; the answer names the first call, and is the same to
the byte, but for `X-Request-Id` and a stream's heartbeats. What is held of kept answers is bounded
as Workers' answers are.
"""

from webhost_kit.byte_budget import ByteBudget

from webhost_gateway.flow_control import FlowControl
from webhost_gateway.ledger.idempotency import Idempotency, IdempotencyKey
from webhost_gateway.ledger.recording import MAX_KEPT_BYTES
from webhost_gateway.request import Request
from webhost_gateway.upstream import sse
from webhost_gateway.upstream.stream import HEADERS


class Repeats:
    """Answers calls from the ledger."""

    def __init__(self, ledger: Idempotency, answers: ByteBudget) -> None:
        self._ledger = ledger
        self._answers = answers

    async def answer(self, request: Request, key: IdempotencyKey) -> bool:
        """Answer if there is a first call with this key; say whether.

        Raises Conflict where that one has no answer to give, and Unavailable.
        """
        found = await self._ledger.find(key)
        if found is None:
            return False
        if found.invocation_id is not None:
            request.name_invocation(found.invocation_id)
        if found.problem is not None:
            raise found.problem
        flow = FlowControl(self._answers, key.user_id)
        try:
            if found.sealed is None:
                # A large one is read once there is room for it.
                await flow.reserve(MAX_KEPT_BYTES)
                found = await self._ledger.find(key, whole=True) or found
            kept = self._ledger.opened(found)
            if kept.content_type == sse.CONTENT_TYPE:
                await request.start(kept.status, HEADERS)
                await request.write(kept.body)
                await request.write(b"", more=False)
            else:
                await request.answer(kept.status, kept.body)
        finally:
            flow.release()
        return True
