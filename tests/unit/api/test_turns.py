"""Who has a turn, who waits for one, and who is refused."""

import asyncio

import pytest
from webhost_api.turns import Turns
from webhost_kit.errors import Unavailable
from webhost_kit.tasks import cancel


async def hold(turns: Turns, user_id: str) -> None:
    async with turns.turn(user_id):
        await asyncio.Event().wait()


async def test_of_one_user_few_go_on_at_a_time_and_another_waits_for_none() -> None:
    turns = Turns("changes", 2, 0.01, "Too many at once.")
    held = [asyncio.create_task(hold(turns, "usr_a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="at once") as refused:
        async with turns.turn("usr_a"):
            pass
    assert refused.value.fault == "others"
    async with turns.turn("usr_b"):
        pass
    # One that has ended leaves its turn to whoever waits.
    await cancel(held[0])
    async with turns.turn("usr_a"):
        pass
    await cancel(*held)
