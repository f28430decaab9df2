"""What is kept of one call's answer, from its first byte until it is stored, sealed.

Guarantees: at most MAX_KEPT_BYTES of an answer, and of all answers what the budget allows; one that
finds no room is not kept at all.
"""

import msgspec
from prometheus_client import Counter
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.response_keys import ResponseKeys

from webhost_gateway.model import Claim

MAX_KEPT_BYTES = 256 * 1024

_not_kept = Counter(
    "webhost_gateway_answers_not_kept_total",
    "Answers to calls with an idempotency key that are not kept: they are too large (`size`), or "
    "there was no room (`memory`)",
    ["reason"],
)


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as its first caller got it; of a stream, all of its events."""

    status: int
    content_type: str
    body: bytes


class Recording:
    """Collects one answer."""

    def __init__(self, claim: Claim, keys: ResponseKeys, budget: ByteBudget) -> None:
        self._claim = claim
        self._keys = keys
        self._budget = budget
        self._parts = bytearray()
        self._held = 0
        self._fits = True
        self.invocation_id = claim.invocation_id
        self.complete = False
        self.sealed: bytes | None = None
        """The answer, sealed; None if it is not kept, or not complete."""

    def add(self, part: bytes) -> None:
        """Keep this part of the answer's body, if there is room for all of it."""
        if not self._fits:
            return
        if len(self._parts) + len(part) > MAX_KEPT_BYTES:
            self._drop("size")
        elif not self._budget.take_now(self._claim.user_id, len(part)):
            self._drop("memory")
        else:
            self._held += len(part)
            self._parts += part

    def end(self, status: int, content_type: str) -> None:
        """The answer is complete: what was added is its body."""
        if self.complete:
            return
        self.complete = True
        if self._fits:
            kept = msgspec.msgpack.encode(Kept(status, content_type, bytes(self._parts)))
            claim = self._claim
            self.sealed = self._keys.seal(claim.key_id, claim.invocation_id, kept, claim.binding)
        self._parts.clear()

    def release(self) -> None:
        """Let others have the room: the answer was stored, or will not be."""
        if self._held:
            self._budget.release(self._claim.user_id, self._held)
            self._held = 0

    def _drop(self, reason: str) -> None:
        _not_kept.labels(reason).inc()
        self._fits = False
        self._parts.clear()
        self.release()
