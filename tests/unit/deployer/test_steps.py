"""Whom a step's calls are counted for, which of them may use what is reserved for removals, and how
failures of the platform's own end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from webhost_contracts.artifacts import Artifact, Bundle
from webhost_deployer import steps
from webhost_deployer.budget import Purpose, purpose
from webhost_deployer.capacity import Capacity
from webhost_deployer.model import AgentTeardown, Deployment, Step
from webhost_deployer.provider import Provider, ProviderError, ScriptGone
from webhost_deployer.secrets.values import Changes, SecretValues
from webhost_deployer.steps import StepFailed, Steps

from tests.unit.deployer.samples import AGENT, COMMAND, begun


class Noting:
    """A provider that notes, by method, what its calls are for."""

    def __init__(self) -> None:
        self.calls: dict[str, Purpose] = {}

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def call(*_: Any) -> None:
            self.calls[name] = purpose()

        return call


async def no_modules(_: Artifact) -> Bundle:
    return Bundle(modules=())


class OneSecret:
    """An agent's secrets: one, which changed."""

    async def changes_since(self, _: Deployment, __: int) -> Changes:
        return Changes(1, {"KEY": "value"})


def steps_at(provider: object) -> Steps:
    providers = {COMMAND.runtime_provider: cast(Provider, provider)}
    return Steps(providers, no_modules, cast(Capacity, None), cast(SecretValues, OneSecret()))


class Failing:
    """A provider whose calls all end like this one."""

    def __init__(self, call: Callable[..., Awaitable[None]]) -> None:
        self.call = call

    def __getattr__(self, _: str) -> Callable[..., Awaitable[None]]:
        return self.call


async def breaking(*_: Any) -> None:
    raise ValueError("a defect of ours")


async def lasting(*_: Any) -> None:
    await asyncio.sleep(60)


@pytest.mark.accept("8.retries")
@pytest.mark.parametrize("step", [Step.SESSION_STORE, Step.UPLOAD, Step.PROBE, Step.REMOVE_SCRIPT])
@pytest.mark.parametrize(
    ("call", "says"), [(breaking, "The platform failed."), (lasting, "Timed out.")]
)
async def test_what_nobody_expects_and_what_lasts_too_long_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, step: Step, call: Callable[..., Awaitable[None]], says: str
) -> None:
    monkeypatch.setattr(steps, "STEP_TIMEOUT_S", 0.05)
    with pytest.raises(StepFailed) as failed:
        await steps_at(Failing(call)).perform(step, begun())
    assert failed.value.transient
    assert (failed.value.error.step, failed.value.error.message) == (step, says)


FOR_USER = Purpose(COMMAND.user_id)
REMOVES_FOR_USER = Purpose(COMMAND.user_id, removes=True)


@pytest.mark.accept("6.C2.budget")
async def test_a_steps_calls_are_for_the_deployments_user_and_a_removals_are_removals() -> None:
    provider = Noting()
    for step in set(Step) - {Step.VALIDATE}:
        await steps_at(provider).perform(step, begun())
    assert provider.calls == {
        "ensure_installation": FOR_USER,
        "upload": FOR_USER,
        "route": FOR_USER,
        "probe": FOR_USER,
        "change_secrets": FOR_USER,
        "remove_route": REMOVES_FOR_USER,
        "remove_script": REMOVES_FOR_USER,
    }
    assert purpose() == Purpose()


@pytest.mark.accept("6.C2.budget")
async def test_a_purge_is_a_removal_for_the_agents_user() -> None:
    provider = Noting()
    teardown = AgentTeardown(agent_id=AGENT, user_id=COMMAND.user_id)
    await steps_at(provider).purge_sessions(teardown)
    assert provider.calls == {"purge_sessions": REMOVES_FOR_USER}


def ending(step: Step, code: str | None, *, transient: bool, advice: str | None = None):
    async def call(*_: Any) -> None:
        raise ProviderError("PUT /x", code, "said", transient=transient, advice=advice)

    return pytest.param(step, call, id=f"{step}-{code}-{transient}-{advice}")


async def fault_of(step: Step, call: Callable[..., Awaitable[None]]) -> str:
    with pytest.raises(StepFailed) as failed:
        await steps_at(Failing(call)).perform(step, begun())
    return failed.value.fault


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ending(Step.UPLOAD, "10021", transient=False),
        ending(Step.SECRETS, "10021", transient=False),
        ending(Step.PROBE, "RUNTIME_ERROR", transient=False),
        ending(Step.PROBE, "RUNTIME_ERROR", transient=True),
    ],
)
async def test_code_that_is_not_taken_or_does_not_start_is_its_users_fault(
    step: Step, call: Callable[..., Awaitable[None]]
) -> None:
    assert await fault_of(step, call) == "others"


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ending(Step.UPLOAD, "10000", transient=False, advice="See to the token."),
        ending(Step.UPLOAD, "10037", transient=False, advice="The account is full."),
        ending(Step.UPLOAD, "503", transient=True),
        ending(Step.UPLOAD, None, transient=True),
        ending(Step.ROUTE, "10021", transient=False),
        ending(Step.SESSION_STORE, "10021", transient=False),
        ending(Step.PROBE, "522", transient=True),
        ending(Step.PROBE, None, transient=True),
        ending(Step.PROBE, "UNAUTHENTICATED", transient=True),
        pytest.param(Step.UPLOAD, breaking, id="a defect"),
    ],
)
async def test_the_rest_is_ours_or_cloudflares(
    step: Step, call: Callable[..., Awaitable[None]]
) -> None:
    assert await fault_of(step, call) == "ours"


async def test_a_script_that_is_gone_is_not_its_users_fault() -> None:
    async def gone(*_: Any) -> None:
        raise ScriptGone("PATCH /x", "10007", "said", transient=False)

    assert await fault_of(Step.SECRETS, gone) == "ours"
