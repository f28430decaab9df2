"""A large answer that is kept is read once there is room for it."""

import asyncio
from typing import Any, cast

import pytest
from webhost_gateway.ledger.idempotency import Found, Idempotency, IdempotencyKey
from webhost_gateway.ledger.recording import MAX_KEPT_BYTES, Claim, Kept
from webhost_gateway.repeats import Repeats
from webhost_gateway.routes import Request
from webhost_kit.byte_budget import ByteBudget

KEY = IdempotencyKey("usr_1", "agt_1", "invoke", "k", b"")
CLAIM = Claim("inv_1", "usr_1", "agt_1", "invoke", "k", "r1", "", 1)


class Large(Idempotency):
    """A ledger with one answer, too large to be read with others'."""

    def __init__(self) -> None:
        self.read = False

    async def find(self, key: IdempotencyKey, *, whole: bool = False) -> Found | None:
        self.read = self.read or whole
        return Found(CLAIM, CLAIM.invocation_id, None, b"sealed" if whole else None)

    def opened(self, found: Found) -> Kept:
        assert found.sealed is not None
        return Kept(200, "application/json", b"{}")


class Asking:
    """A request, and what it was answered."""

    answered: Any = None

    def name_invocation(self, _: str) -> None: ...

    async def answer(self, *answer: Any) -> None:
        self.answered = answer


@pytest.mark.accept("7.7.kept")
async def test_a_large_answer_is_read_once_there_is_room_and_gives_it_back() -> None:
    ledger, request = Large(), Asking()
    answers = ByteBudget(MAX_KEPT_BYTES, MAX_KEPT_BYTES)
    assert answers.take_now("usr_2", 1)
    repeat = asyncio.create_task(Repeats(ledger, answers).answer(cast(Request, request), KEY))
    for _ in range(5):
        await asyncio.sleep(0)
    assert answers.waiting("usr_1") == 1
    assert not ledger.read
    answers.release("usr_2", 1)
    assert await repeat
    assert request.answered == (200, b"{}")
    assert answers.taken == 0
