"""A deployer dies at every crash point of every saga, and of a reconciliation: another one goes on.

The points are those of the code (`webhost_deployer.crash_points`), so that a new step or fact is
covered by itself. Two deployers run beside each other; whoever dies is started again meanwhile.
`test_fault_matrix.py` has the faults of Cloudflare.

`make test` has a few points; the rest is long, and prints its count at the end.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from webhost_contracts import subjects
from webhost_contracts.commands import DEPLOY
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentFrontUpdated,
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    SecretDeleted,
    SecretSet,
    TeardownFinished,
    TeardownStarted,
)
from webhost_contracts.events.base import Event
from webhost_contracts.rpc import RevokeTelemetryKeyReply, RevokeTelemetryKeyRequest
from webhost_deployer.crash_points import (
    ALL,
    AROUND_FACTS,
    AROUND_REMOVALS,
    AROUND_STEPS,
    ORPHANED_ROUTE,
    ORPHANED_SCRIPT,
    PURGE,
    RESEAL,
    Moment,
    fact_point,
    point,
)
from webhost_deployer.model import Step
from webhost_deployer.saga import FORWARD, REMOVAL
from webhost_kit.bus import rpc
from webhost_kit.clock import now_ms
from webhost_kit.errors import Unavailable
from webhost_kit.keys import base64url

from tests.integration.deployer.api_gate import ApiGate, gated
from tests.integration.deployer.conftest import on_both_layouts
from tests.integration.deployer.harness import ENDED, Harness, new_agent, put_script
from tests.integration.deployer.saga_cases import counting
from tests.integration.deployer.test_secrets import delete_secrets, remove_scripts, set_secrets
from tests.support.deadline import eventually
from tests.support.service import ServiceProcess

NOT_AN_AGENT = "export default { hello: 1 };"
OWNERS, ANOTHERS = "owners-own", "whs-anothers"
END_S = 60


def around(*kinds: type[Event]) -> tuple[str, ...]:
    return tuple(fact_point(kind, moment) for kind in kinds for moment in AROUND_FACTS)


def at(names: Sequence[str], moments: Sequence[Moment] = AROUND_STEPS) -> tuple[str, ...]:
    return tuple(point(name, moment) for name in names for moment in moments)


RESEALED = tuple(point(RESEAL, moment) for moment in AROUND_FACTS)


class Deployers:
    """Two of them; who died is replaced."""

    def __init__(self, harness: Harness, gate: ApiGate) -> None:
        self.harness = harness
        self.gate = gate
        self._processes: list[ServiceProcess] = []

    async def start(self) -> None:
        await self.launch()
        await self.until_all_are_ready()

    async def launch(self) -> None:
        self._processes = [await self.harness.start() for _ in range(2)]

    async def stop(self) -> None:
        for process in self._processes:
            await process.kill()

    async def replace_who_died(self) -> None:
        """See that exactly one died, and start it again."""

        async def one_died() -> bool:
            return sum(not it.running for it in self._processes) == 1

        await eventually(one_died, "the death of one of them", seconds=END_S)
        self._processes = [it for it in self._processes if it.running]
        self._processes.append(await self.harness.start())

    async def until_all_are_ready(self) -> None:
        for process in self._processes:
            await eventually(process.ready, "a deployer to be ready", seconds=END_S)


Act = Callable[[Deployers, str], Awaitable[tuple[str, type[Event]]]]
"""Crashes at this point; returns the deployment, and with which fact it ended."""


async def deploy(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    deployers.harness.crash_at(crash)
    return await deployers.harness.deploy(new_agent()), DeploymentSucceeded


async def fail(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    deployers.harness.crash_at(crash)
    return await deployers.harness.deploy(new_agent(), NOT_AN_AGENT), DeploymentFailed


async def retire(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    harness.crash_at(crash)
    await harness.tear_down(agent, deployment, now_ms())
    return deployment, DeploymentTornDown


async def delete(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    harness.crash_at(crash)
    await harness.delete(agent)
    await harness.until_stated(agent, lambda it: isinstance(it, TeardownFinished), seconds=END_S)
    return deployment, DeploymentTornDown


async def delete_meanwhile(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    """The agent is deleted while a step of its deployment runs."""
    harness, gate, agent = deployers.harness, deployers.gate, new_agent()
    gate.flowing.clear()
    held_before = gate.held_back
    deployment = await harness.deploy(agent)

    async def under_way() -> bool:
        return gate.held_back > held_before

    await eventually(under_way, "a step that waits for Cloudflare", seconds=END_S)
    harness.crash_at(crash)
    await harness.delete(agent)
    await harness.until_stated(agent, lambda it: isinstance(it, TeardownStarted), seconds=END_S)
    gate.flowing.set()
    return deployment, DeploymentFailed


async def change_secrets(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    """A secret is set, and deleted; who asked and had no answer asks again."""
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    harness.crash_at(crash)
    await asked_until_answered(lambda: set_secrets(harness, agent, "once", KEY="value"))
    await asked_until_answered(lambda: delete_secrets(harness, agent, "KEY"))

    def is_up(event: Event) -> bool:
        return isinstance(event, DeploymentSecretsApplied) and event.secrets_version == 2

    await harness.until_stated(deployment, is_up, seconds=END_S)
    return deployment, DeploymentSucceeded


async def revoke_key(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    harness.crash_at(crash)
    request = RevokeTelemetryKeyRequest(deployment_id=deployment, operator="ops", generation=1)
    subject = subjects.RPC_REVOKE_TELEMETRY_KEY
    await asked_until_answered(
        lambda: rpc.call(harness.bus, subject, request, RevokeTelemetryKeyReply)
    )
    await harness.until_stated(
        deployment, lambda it: isinstance(it, DeploymentTelemetryKeyRevoked), seconds=END_S
    )
    return deployment, DeploymentSucceeded


async def rotate_keys(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    """Both deployers are started again, with one key more of each kind."""
    harness, agent = deployers.harness, new_agent()
    await asked_until_answered(lambda: set_secrets(harness, agent, "once", KEY="value"))
    deployment = await live(harness, agent)
    number = len(harness.env["PLATFORM_PRIVATE_KEYS"].split(",")) + 1
    seed = base64url(secrets.token_bytes(32))
    harness.env["PLATFORM_PRIVATE_KEYS"] += f",p{number}:{seed}"
    harness.env["SECRETS_PRIVATE_KEYS"] = f"s{number}:{seed}," + harness.env["SECRETS_PRIVATE_KEYS"]
    await deployers.stop()
    if harness.namespace is not None and crash not in RESEALED:
        crash = RESEALED[0]  # there, a deployment has no front of its own
    harness.crash_at(crash)
    await deployers.launch()
    return deployment, DeploymentSucceeded


async def lose(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    """Its scripts are removed by hand, which is found out when a secret is set."""
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    await remove_scripts(harness, deployment)
    harness.crash_at(crash)
    await asked_until_answered(lambda: set_secrets(harness, agent, "once", KEY="value"))
    await harness.until_stated(
        deployment, lambda it: isinstance(it, DeploymentScriptLost), seconds=END_S
    )
    await harness.tear_down(agent, deployment, now_ms())
    return deployment, DeploymentTornDown


async def asked_until_answered(ask: Callable[[], Awaitable[object]]) -> None:
    async def answered() -> bool:
        try:
            await ask()
        except Unavailable:
            return False
        return True

    await eventually(answered, "an answer", seconds=END_S)


async def bury(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    """The command is not one: it becomes a dead letter, and fails its deployment."""
    harness, agent = deployers.harness, new_agent()
    command = await harness.deploy_command(agent)
    harness.crash_at(crash)
    subject = subjects.command("deployer", DEPLOY, agent)
    await harness.bus.js.publish(subject, b"not a command", headers=command.headers())
    return command.deployment_id, DeploymentFailed


async def reconcile(deployers: Deployers, crash: str) -> tuple[str, type[Event]]:
    harness, agent = deployers.harness, new_agent()
    deployment = await live(harness, agent)
    harness.crash_at(crash)
    await harness.execute(
        "UPDATE deployments SET phase = 'failed',"
        " state = jsonb_set(state, '{phase}', '\"failed\"') WHERE agent_id = :agent",
        agent=agent,
    )
    return deployment, DeploymentSucceeded


async def live(harness: Harness, agent: str) -> str:
    deployment = await harness.deploy(agent)
    assert isinstance(await harness.until_stated(deployment, seconds=END_S), DeploymentSucceeded)
    return deployment


@dataclass(frozen=True)
class Scenario:
    """What is done, and the crash points on its way."""

    act: Act
    points: tuple[str, ...]
    reconciles: bool = False

    @property
    def name(self) -> str:
        return self.act.__name__


SCENARIOS = (
    Scenario(deploy, (*around(DeploymentStarted), *at(FORWARD), *around(DeploymentSucceeded))),
    Scenario(fail, (*at([Step.PROBE]), *at(REMOVAL), *around(DeploymentFailed))),
    Scenario(
        retire, (*around(DeploymentTeardownScheduled), *at(REMOVAL), *around(DeploymentTornDown))
    ),
    Scenario(
        delete,
        (
            *around(TeardownStarted),
            *at(REMOVAL),
            *around(DeploymentTornDown),
            *at([PURGE]),
        ),
    ),
    Scenario(change_secrets, around(SecretSet, SecretDeleted, DeploymentSecretsApplied)),
    Scenario(revoke_key, around(DeploymentTelemetryKeyRevoked)),
    Scenario(rotate_keys, (*around(DeploymentFrontUpdated), *RESEALED)),
    Scenario(lose, around(DeploymentScriptLost)),
    Scenario(delete_meanwhile, around(DeploymentStepFailed)),
    Scenario(bury, around(DeploymentFailed)),
    Scenario(reconcile, at([ORPHANED_ROUTE, ORPHANED_SCRIPT], AROUND_REMOVALS), reconciles=True),
)
BY_NAME = {it.name: it for it in SCENARIOS}
USUAL = {
    "deploy": (
        point(Step.UPLOAD, Moment.STARTING),
        fact_point(DeploymentSucceeded, Moment.RECORDING),
    ),
    "fail": (point(Step.REMOVE_SCRIPT, Moment.DONE),),
    "delete": (point(Step.REMOVE_ROUTE, Moment.RECORDED), point(PURGE, Moment.DONE)),
}
"""What `make test` has of it."""


@pytest.fixture(scope="module", autouse=True)
def counted(pytestconfig: pytest.Config) -> Iterator[Counter[str]]:
    """The deaths so far, by scenario; printed when the last test is through."""
    with counting(pytestconfig, "kill matrix, deaths") as counts:
        yield counts


def test_every_point_is_in_a_scenario() -> None:
    assert {it for scenario in SCENARIOS for it in scenario.points} == {*ALL}


@on_both_layouts
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.accept("7.saga.kills")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda it: it.name)
async def test_killed_at_every_point(
    harness: Harness, counted: Counter[str], scenario: Scenario
) -> None:
    points = scenario.points
    if harness.namespace is not None:  # there, one route is everybody's
        points = tuple(it for it in points if f".{ORPHANED_ROUTE}." not in it)
    await matrix(harness, counted, scenario, points)


@pytest.mark.accept("7.saga.kills")
@pytest.mark.parametrize("name", USUAL)
async def test_killed_at_some_points(harness: Harness, counted: Counter[str], name: str) -> None:
    await matrix(harness, counted, BY_NAME[name], USUAL[name])


async def matrix(
    harness: Harness, counted: Counter[str], scenario: Scenario, points: Sequence[str]
) -> None:
    harness.env["RECONCILE_EVERY_S"] = "0.5" if scenario.reconciles else "3600"
    await put_script(harness, OWNERS)
    await put_script(harness, ANOTHERS, tags=["webhost", "installation-another"])
    seeded = await others(harness)
    async with gated(harness) as gate:
        deployers = Deployers(harness, gate)
        await deployers.start()
        await live(harness, new_agent())
        for crash in points:
            try:
                await one(deployers, scenario, crash)
            except BaseException as error:
                error.add_note(f"{scenario.name}, {harness.namespace}: killed at {crash}")
                raise
            counted[scenario.name] += 1
    assert await others(harness) == seeded


async def one(deployers: Deployers, scenario: Scenario, crash: str) -> None:
    harness = deployers.harness
    before = {*await harness.scripts()}, {*await harness.routes()}
    deployment, ends = await scenario.act(deployers, crash)
    await deployers.replace_who_died()
    ended = await harness.until_stated(
        deployment, lambda it: isinstance(it, ENDED) and isinstance(it, ends), seconds=END_S
    )
    await harness.until_quiet()
    stated = [type(it) for it in harness.stated(deployment) if isinstance(it, ENDED)]
    expected = [DeploymentSucceeded, DeploymentTornDown] if ends is DeploymentTornDown else [ends]
    assert stated == expected
    after = {*await harness.scripts()}, {*await harness.routes()}
    if isinstance(ended, DeploymentSucceeded) and not scenario.reconciles:
        assert after[0] == before[0] | {ended.worker_name}
        own = f"{harness.host}/dep/{deployment}/*"
        assert after[1] == before[1] | ({own} if harness.namespace is None else set())
        assert len(await harness.session_workers()) == 1
        answer = await harness.invoke(ended.invoke_url, deployment, "again")
        assert answer.json()["output"] == {"text": "hello again"}
        steps = Counter(
            it.step for it in harness.stated(deployment) if isinstance(it, DeploymentStepSucceeded)
        )
        assert steps == dict.fromkeys(FORWARD, 1)
    else:

        async def tidy() -> bool:
            return ({*await harness.scripts()}, {*await harness.routes()}) == before

        # Nothing but a reconciliation's own work may wait for one.
        await eventually(tidy, "the orphans' end", seconds=END_S if scenario.reconciles else 0.1)
    await deployers.until_all_are_ready()


async def others(harness: Harness) -> list[object]:
    found = await harness.api("GET", harness.scripts_path(None))
    return [it for it in found if it["id"] in (OWNERS, ANOTHERS)]
