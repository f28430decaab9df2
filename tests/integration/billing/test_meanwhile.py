"""What happens while billing is at something else: seals and puts in the middle of a rebuild."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.billing.conftest import ALICE, PERIOD, call, telemetry
from tests.integration.billing.test_seals import PAST, Sealing, opened, past
from tests.support.deadline import eventually
from tests.support.harness import running


@pytest.fixture
async def billing(database_url: str, nats_account: str, tmp_path: Path) -> AsyncIterator[Sealing]:
    async with running(Sealing, database_url, nats_account, directory=tmp_path) as harness:
        harness.service.module = "tests.integration.billing.paused"
        await harness.service.start()
        yield harness


async def standing(directory: Path, place: str) -> None:
    async def is_there() -> bool:
        return (directory / f"at-{place}").exists()

    await eventually(is_there, f"billing to stand still at {place}", seconds=20)


@pytest.mark.accept("8.rebuild.sealed")
@pytest.mark.parametrize(
    "scope", [{}, pytest.param({"user_id": ALICE}, marks=pytest.mark.long)], ids=["all", "user"]
)
async def test_a_seal_in_the_middle_of_a_rebuild_stands(
    billing: Sealing, tmp_path: Path, scope: dict[str, str]
) -> None:
    await billing.given_folded(*past(ALICE, 1), *past(ALICE, 2))
    await billing.execute(
        f"UPDATE billing_usage SET llm_tokens = llm_tokens + 7 WHERE period_key = '{PAST}'"
    )
    await billing.past_is_due_from_now_on()
    (tmp_path / "hold-prepared").touch()
    rebuild = asyncio.create_task(billing.rebuild(**scope))
    await standing(tmp_path, "prepared")
    await billing.given_folded(opened(ALICE, 10))
    await billing.until_sealed(ALICE)
    (tmp_path / "hold-prepared").unlink()
    assert (await rebuild)[-1].swapped
    [sealed] = await billing.rows("SELECT llm_tokens FROM sealed_usage")
    usage = await billing.rows(
        f"SELECT llm_tokens FROM billing_usage WHERE period_key = '{PAST}'"
        " AND generation = (SELECT live FROM generations)"
    )
    assert usage == [sealed]


async def test_totals_that_a_rebuild_mends_while_others_are_put_are_put(
    billing: Sealing, tmp_path: Path
) -> None:
    async def until_put(tokens: int) -> None:
        async def is_put() -> bool:
            totals = await billing.totals(ALICE)
            return totals is not None and totals.tokens == tokens

        await eventually(is_put, f"totals of {tokens}", seconds=20)

    await billing.given_folded(call(ALICE, 1), telemetry(ALICE, 1))
    await until_put(10)
    await billing.execute(
        f"UPDATE billing_usage SET llm_tokens = llm_tokens + 1000000 WHERE period_key = '{PERIOD}'"
    )
    (tmp_path / "hold-put").touch()
    await billing.given_folded(call(ALICE, 2), telemetry(ALICE, 2))
    await standing(tmp_path, "put")
    assert (await billing.rebuild(user_id=ALICE))[-1].swapped
    (tmp_path / "hold-put").unlink()
    await until_put(20)


async def test_a_rebuild_that_would_lose_one_side_of_a_call_is_refused(billing: Sealing) -> None:
    """As if the Worker's report of a call had been on what the stream lost."""
    await billing.given_folded(call(ALICE, 1), call(ALICE, 2), telemetry(ALICE, 2))
    await billing.execute(
        "UPDATE invocations SET event_id = 'inv_1', worker_requests = 1, worker_llm_tokens = 10,"
        " worker_compute_ms = 40, worker_tool_calls = 2, worker_errors = 0, llm_tokens = 10"
        " WHERE invocation_id = 'inv_1'"
    )
    assert "as they were counted" in str((await billing.rebuild())[-1].refused)
