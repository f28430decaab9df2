"""What is kept of an answer: bounded, sealed, and of use in its own row alone."""

import msgspec
import pytest
from webhost_gateway.ledger.recording import MAX_KEPT_BYTES, Kept, Recording
from webhost_gateway.model import Claim
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.keys import base64url
from webhost_kit.response_keys import ResponseKeys, Unreadable

KEYS = ResponseKeys.parse(f"new:{base64url(b'n' * 32)},old:{base64url(b'o' * 32)}")
CLAIM = Claim("inv_1", "usr_1", "agt_1", "invoke", "k", "new", "", 1)


def recorded(budget: ByteBudget, *parts: bytes) -> Recording:
    recording = Recording(CLAIM, KEYS, budget)
    for part in parts:
        recording.add(part)
    recording.end(200, "text/plain")
    return recording


def opened(claim: Claim, sealed: bytes, keys: ResponseKeys = KEYS) -> Kept:
    said = keys.open(claim.key_id, claim.invocation_id, sealed, claim.binding)
    return msgspec.msgpack.decode(said, type=Kept)


def test_an_answer_opens_as_it_was_and_its_room_is_free_once_it_is_stored() -> None:
    budget = ByteBudget(100, 100)
    recording = recorded(budget, b"one ", b"two")
    assert recording.sealed is not None
    assert b"one" not in recording.sealed
    assert opened(CLAIM, recording.sealed) == Kept(200, "text/plain", b"one two")
    assert budget.taken == 7
    recording.release()
    recording.release()
    assert budget.taken == 0


@pytest.mark.accept("7.4.ledger")
@pytest.mark.parametrize("field", ["invocation_id", "user_id", "agent_id", "kind", "key"])
def test_a_sealed_answer_is_bound_to_its_row(field: str) -> None:
    sealed = recorded(ByteBudget(100, 100), b"answer").sealed
    assert sealed is not None
    with pytest.raises(Unreadable):
        opened(msgspec.structs.replace(CLAIM, **{field: "another"}), sealed)


@pytest.mark.accept("A9", "7.7.kept")
@pytest.mark.parametrize("size", [MAX_KEPT_BYTES, MAX_KEPT_BYTES + 1])
def test_an_answer_over_the_bound_is_not_kept(size: int) -> None:
    budget = ByteBudget(2 * MAX_KEPT_BYTES, 2 * MAX_KEPT_BYTES)
    recording = recorded(budget, b"x" * (size - 1), b"x")
    assert recording.complete
    assert (recording.sealed is not None) is (size == MAX_KEPT_BYTES)
    assert budget.taken == (size if recording.sealed else 0)


@pytest.mark.accept("A9")
def test_an_answer_that_finds_no_room_is_not_kept() -> None:
    budget = ByteBudget(100, 10)
    first = recorded(budget, b"x" * 6)
    second = recorded(budget, b"x" * 4, b"x")
    assert (first.sealed is not None, second.sealed) == (True, None)
    assert budget.taken == 6
    first.release()
    assert recorded(budget, b"x" * 10).sealed is not None
