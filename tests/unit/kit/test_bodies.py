"""Who finds room for a body, who waits for it, and who is refused."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from webhost_kit.errors import Unavailable
from webhost_kit.http import bodies
from webhost_kit.http.bodies import MOST_WAITING, SMALL_BYTES, TOTAL_BYTES, USER_BYTES, Bodies
from webhost_kit.tasks import cancel


async def hold(held: Bodies, user_id: str, size: int = USER_BYTES) -> None:
    async with held.reserve(user_id, size):
        await asyncio.Event().wait()


@pytest.mark.accept("6.B5")
async def test_beyond_so_many_waiting_a_user_is_refused_at_once() -> None:
    held = Bodies()
    tasks = [asyncio.create_task(hold(held, "usr_many")) for _ in range(1 + MOST_WAITING)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(Unavailable) as refused:
            async with asyncio.timeout(1), held.reserve("usr_many", USER_BYTES):
                pass
        assert refused.value.fault == "others"
        async with asyncio.timeout(1), AsyncExitStack() as others:
            await others.enter_async_context(held.reserve("usr_many", SMALL_BYTES))
            await others.enter_async_context(held.reserve("usr_other", USER_BYTES))
    finally:
        await cancel(*tasks)


async def test_where_nobody_waits_a_user_is_refused_at_once() -> None:
    held = Bodies(20, 30, small_bytes=9, waits=False)
    async with asyncio.timeout(1), held.reserve("usr_a", 20):
        with pytest.raises(Unavailable):
            async with held.reserve("usr_a", 10):
                pass
        async with held.reserve("usr_a", 9), held.reserve("usr_b", 10):
            with pytest.raises(Unavailable):
                async with held.reserve("usr_c", 10):
                    pass
        async with held.reserve("usr_c", 10):
            pass


@pytest.mark.accept("6.B5")
async def test_whoever_finds_no_room_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WAIT_S", 0.01)
    held = Bodies()
    task = asyncio.create_task(hold(held, "usr_a"))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        async with asyncio.timeout(1), held.reserve("usr_a", SMALL_BYTES + 1):
            pass
    assert refused.value.fault == "others"
    await cancel(task)
    async with asyncio.timeout(1), held.reserve("usr_a", USER_BYTES):
        pass


@pytest.mark.accept("6.B5")
async def test_whose_fault_it_is_that_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own, where its other bodies take its share; ours, where all users' take the room."""
    monkeypatch.setattr(bodies, "WAIT_S", 0.01)
    held = Bodies()
    tasks = [asyncio.create_task(hold(held, f"usr_{n}")) for n in range(TOTAL_BYTES // USER_BYTES)]
    await asyncio.sleep(0)
    faults: dict[str, str] = {}
    for user_id in "usr_0", "usr_new":
        with pytest.raises(Unavailable) as refused:
            async with held.reserve(user_id, USER_BYTES):
                pass
        faults[user_id] = refused.value.fault
    await cancel(*tasks)
    assert faults == {"usr_0": "others", "usr_new": "ours"}
