"""A deployment whose steps never return, or kill whoever does them, is failed after 15 minutes of
work, by the clock.
"""

import pytest
from webhost_deployer import executor, saga, steps
from webhost_deployer.crash_points import Moment, point
from webhost_deployer.model import Phase, Step
from webhost_kit.clock import now_ms

from tests.integration.deployer.conftest import on_both_grounds
from tests.integration.deployer.faulty_cloudflare import Fault
from tests.integration.deployer.saga_cases import Ground, case_of
from tests.integration.deployer.what_is_left import Others, check_what_is_left, clean
from tests.support.deadline import eventually
from tests.support.harness import in_background

ALWAYS = 10**6
TOLERANCE_MS = 60_000


@pytest.mark.accept("4.no-progress")
@on_both_grounds
async def test_steps_that_never_return_are_the_end_after_fifteen_minutes(
    ground: Ground, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_ms = 0
    monkeypatch.setattr(executor, "now_ms", lambda: now_ms() + moved_ms)
    monkeypatch.setattr(saga, "MAX_TRIES", ALWAYS)
    monkeypatch.setattr(steps, "STEP_TIMEOUT_S", 2.0)
    async with case_of(ground, Fault.SILENT) as case:
        await others.route(case.line.host)

        async def tries(number: int) -> None:
            async def tried() -> bool:
                return (await case.facts()).count("deployment.step_failed") >= number

            await eventually(tried, f"{number} tries that do not end", seconds=60)

        async def ended() -> bool:
            return "deployment.failed" in await case.facts()

        probe = 9 if ground.namespace is None else 12
        case.line.at, case.line.calls = probe - 1, ALWAYS
        async with in_background(case.deploy()):
            await tries(1)
            moved_ms = saga.NO_PROGRESS_MS - TOLERANCE_MS
            await tries(3)
            assert not await ended()
            moved_ms = saga.NO_PROGRESS_MS
            case.line.fault = None
            await eventually(ended, "the deployment to be failed", seconds=60)
        failure = (await case.state())["failure"]
        assert failure["message"] == "No progress for 15 minutes."
        await check_what_is_left(case, others, Phase.FAILED)
        await clean(case)


class Killed(Exception):
    """Stands for the process's death: nothing behind it is done."""


@pytest.mark.accept("4.no-progress")
@on_both_grounds
async def test_a_first_step_that_always_kills_is_the_end_after_fifteen_minutes(
    ground: Ground, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_ms = 0

    def crash_point(name: str) -> None:
        if name == point(Step.VALIDATE, Moment.STARTING):
            raise Killed

    monkeypatch.setattr(executor, "now_ms", lambda: now_ms() + moved_ms)
    monkeypatch.setattr(executor, "crash_point", crash_point)
    async with case_of(ground) as case:
        await others.route(case.line.host)
        with pytest.raises(Killed):
            await case.deploy()
        moved_ms = saga.NO_PROGRESS_MS - TOLERANCE_MS
        with pytest.raises(Killed):
            await case.work()
        assert await case.facts() == ["deployment.started"]
        moved_ms = saga.NO_PROGRESS_MS
        await case.work()
        assert (await case.facts())[-1] == "deployment.failed"
        assert (await case.state())["failure"] == {
            "step": "validate",
            "message": "No progress for 15 minutes.",
        }
        await check_what_is_left(case, others, Phase.FAILED)
        await clean(case)
