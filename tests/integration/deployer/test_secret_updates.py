"""How secrets reach Workers: when, in which order, and what a failure or a restore leaves.

The deployer's parts on a real database, with a provider that notes what it is given.
"""

import secrets as randomness
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from webhost_contracts import wire
from webhost_contracts.artifacts import Artifact, Bundle, Module
from webhost_contracts.commands import Deploy, TearDown, TearDownAgent
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentScriptLost,
    DeploymentSucceeded,
    Envelope,
)
from webhost_contracts.rpc import (
    ChangeSecretsReply,
    DeleteSecretsRequest,
    SecretsRequest,
    SetSecretsRequest,
)
from webhost_deployer import store
from webhost_deployer.capacity import Capacity
from webhost_deployer.executor import Executor
from webhost_deployer.handlers import Handlers
from webhost_deployer.model import Deployment, Phase
from webhost_deployer.provider import ProviderError, ScriptGone
from webhost_deployer.recovery import TYPES, recover
from webhost_deployer.secrets import store as secrets_store
from webhost_deployer.secrets.handlers import DAY_MS, SecretHandlers
from webhost_deployer.secrets.values import SecretValues
from webhost_deployer.steps import Steps
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.database.migrations import upgrade
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.keys import base64url
from webhost_kit.sealing import Opener, Owner, Sealer, public_half

from tests.integration.deployer.harness import new_agent, new_deployment
from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.unit.deployer.samples import COMMAND

KEY = randomness.token_bytes(32)
SEALER = Sealer.parse(f"s1:{base64url(public_half(KEY))}", "PUBLIC")
OPENER = Opener.parse(f"s1:{base64url(KEY)}", "PRIVATE")
USER = COMMAND.user_id

Values = Mapping[str, str | None]


class Cloud:
    """A provider: what each Worker has, and in which order it was given."""

    def __init__(self) -> None:
        self.has: dict[str, dict[str, str]] = {}
        self.changed: list[str] = []
        self.broken: set[str] = set()
        self.gone: set[str] = set()
        self.before: dict[str, Callable[[], Awaitable[Any]]] = {}

    def worker_name(self, _: Deployment) -> str:
        return "worker"

    def invoke_url(self, _: Deployment) -> str:
        return "https://worker"

    def problem_of(self, *_: Any) -> None:
        return None

    def front_keys(self, _: Deployment) -> tuple[str, ...]:
        return ()

    async def upload(self, deployment: Deployment, _: Bundle, secrets: dict[str, str]) -> None:
        if deployment.id in self.broken:
            raise ProviderError("PUT", "1", f"what is {secrets}?", transient=False)
        self.has[deployment.id] = dict(secrets)

    async def change_secrets(self, deployment: Deployment, values: Values) -> None:
        await self._on("change_secrets")
        if deployment.id in self.broken:
            raise ProviderError("PATCH", "1", f"what is {values}?", transient=False)
        if deployment.id in self.gone:
            raise ScriptGone("PATCH", "1", "no such script", transient=False)
        self.changed.append(deployment.id)
        worker = self.has[deployment.id]
        for name, value in values.items():
            if value is None:
                worker.pop(name, None)
            else:
                worker[name] = value

    async def probe(self, _: Deployment) -> None:
        await self._on("probe")

    async def _on(self, call: str) -> None:
        if (act := self.before.pop(call, None)) is not None:
            await act()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def call(*_: Any) -> None:
            pass

        return call


class World:
    """One agent, and the deployer's parts."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cloud = Cloud()
        self.agent_id = new_agent()
        self.requests = SecretHandlers(database, lambda: None)
        self.commands = Handlers(database, 1, None, lambda: None)
        values = SecretValues(database, OPENER)
        providers: Any = {COMMAND.runtime_provider: self.cloud}
        steps = Steps(providers, self._bundle, Capacity(database, None), values)
        self._executor = Executor(database, steps, lambda: 1.0)

    async def _bundle(self, _: Artifact) -> Bundle:
        return Bundle(modules=(Module(name="index.mjs", content=""),))

    async def put(
        self, *, operation: str | None = None, user_id: str = USER, **more: Any
    ) -> ChangeSecretsReply:
        """Set what is in upper case; the rest goes to the request."""
        request = SetSecretsRequest(
            user_id=user_id,
            agent_id=self.agent_id,
            actor=f"user:{USER}",
            operation=operation or randomness.token_hex(8),
            sealed={
                name: SEALER.seal(value, Owner(user_id, self.agent_id, name))
                for name, value in more.items()
                if name.isupper()
            },
            **{name: value for name, value in more.items() if not name.isupper()},
        )
        return await self.requests.set_secrets(request)

    async def delete(self, *keys: str) -> ChangeSecretsReply:
        request = DeleteSecretsRequest(
            user_id=USER, agent_id=self.agent_id, actor=f"user:{USER}", keys=keys
        )
        return await self.requests.delete_secrets(request)

    async def listed(self, user_id: str = USER) -> set[str]:
        request = SecretsRequest(user_id=user_id, agent_id=self.agent_id)
        return set((await self.requests.secrets(request)).set_at_ms)

    async def command(self, **changes: Any) -> Deploy:
        command = replace(COMMAND, agent_id=self.agent_id, deployment_id=new_deployment())
        command = replace(command, **changes)
        await self.commands.deploy(command)
        return command

    async def deploy(self, **changes: Any) -> Deployment:
        """Deploy, and do all that is due; return what became of it."""
        command = await self.command(**changes)
        await self.work()
        return await self.deployment(command.deployment_id)

    async def work(self) -> None:
        async with held(self.database.dsn, store.agent_lock(self.agent_id)) as lock:
            assert lock is not None
            await self._executor.execute(self.agent_id, lock)

    async def deployment(self, deployment_id: str) -> Deployment:
        async with self.database.transaction() as connection:
            state = await store.load(connection, deployment_id)
        assert state is not None
        return state

    async def rows(self, query: str) -> list[Any]:
        async with self.database.transaction() as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    async def execute(self, statement: str) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(text(statement))

    async def stated(self, kind: str) -> list[Any]:
        """The data of all facts of this kind, in order."""
        return [fact.event for fact in await self.facts() if fact.event.kind() == kind]

    async def facts(self) -> list[Fact]:
        found = await self.rows("SELECT envelope FROM events ORDER BY occurred_at_ms, event_id")
        envelopes = [wire.decode(row[0], Envelope) for row in found]
        return [
            Fact(n, it.occurred_at_ms, it, event)
            for n, it in enumerate(envelopes)
            if (event := it.event(TYPES)) is not None
        ]


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    upgrade(database_url, "webhost_deployer")
    database = Database(database_url)
    yield World(database)
    await database.close()


@pytest.mark.accept("7.3.rechecked")
async def test_what_is_set_during_a_deploy_is_there_before_it_succeeds(world: World) -> None:
    await world.put(A="old", B="b")

    async def once_more() -> None:
        await world.put(A="newest")

    async def during_the_probe() -> None:
        await world.put(A="new", C="c")
        await world.delete("B")
        world.cloud.before["change_secrets"] = once_more

    world.cloud.before["probe"] = during_the_probe
    deployment = await world.deploy()
    assert deployment.phase is Phase.LIVE
    assert world.cloud.has[deployment.id] == {"A": "newest", "C": "c"}
    succeeded = [
        it for it in await world.stated("deployment") if isinstance(it, DeploymentSucceeded)
    ]
    assert [it.secrets_version for it in succeeded] == [4]
    assert await world.rows("SELECT * FROM secret_updates") == []


@pytest.mark.accept("7.3.rechecked")
async def test_a_deployment_does_not_succeed_beside_a_change_of_secrets(world: World) -> None:
    command = await world.command()

    async def waits() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return await world.rows(waiting) == [(1,)]

    async with world.database.transaction() as connection:
        # As a change of secrets does.
        await store.lock_agent(connection, world.agent_id)
        async with in_background(world.work()):
            await eventually(waits, "the end of the deploy to wait")
            assert (await world.deployment(command.deployment_id)).phase is Phase.DEPLOYING
            await connection.rollback()

            async def live() -> bool:
                return (await world.deployment(command.deployment_id)).phase is Phase.LIVE

            await eventually(live, "the end of the deploy")


@pytest.mark.accept("7.3.lost")
async def test_a_deployment_whose_script_is_gone_is_said_to_be_lost(world: World) -> None:
    await world.put(A="1")
    lost, kept = [(await world.deploy()).id for _ in range(2)]
    world.cloud.gone.add(lost)
    await world.put(A="2")
    for tries in (1, 2):
        await world.execute("UPDATE secret_updates SET due_at_ms = 0")
        await world.work()
        assert await world.rows("SELECT deployment_id, tries FROM secret_updates") == [
            (lost, tries)
        ], "it may only be late to be seen"
    await world.execute("UPDATE secret_updates SET due_at_ms = 0")
    await world.work()
    assert await world.rows("SELECT * FROM secret_updates") == []
    facts = [it for it in await world.stated("deployment") if isinstance(it, DeploymentScriptLost)]
    assert facts == [DeploymentScriptLost(agent_id=world.agent_id)]

    await world.delete("A")
    assert await world.rows("SELECT deployment_id FROM secret_updates") == [(kept,)]
    await world.work()
    assert world.cloud.has[kept] == {}
    assert await world.rows("SELECT * FROM secret_updates") == []
    assert await world.rows("SELECT * FROM secrets") == [], "nobody needs to know of the deletion"


@pytest.mark.accept("7.3.reaches")
async def test_the_active_one_comes_first_and_a_failing_one_holds_up_no_other(world: World) -> None:
    await world.put(A="1", B="b")
    oldest, broken, newest = [(await world.deploy()).id for _ in range(3)]
    retired = (await world.deploy()).id
    tear_down = TearDown(
        command_id="cmd_2",
        causation_id="evt_2",
        user_id=USER,
        agent_id=world.agent_id,
        deployment_id=retired,
        not_before_ms=10**15,
    )
    await world.commands.tear_down(tear_down)
    world.cloud.broken.add(broken)
    await world.put(A="2", active_deployment_id=oldest)
    await world.delete("B")
    await world.work()
    assert world.cloud.changed == [oldest, newest]
    assert world.cloud.has[oldest] == world.cloud.has[newest] == {"A": "2"}
    assert [(await world.deployment(it)).secrets_version for it in (oldest, broken, newest)] == [
        3,
        1,
        3,
    ]
    assert await world.rows("SELECT deployment_id, tries FROM secret_updates") == [(broken, 1)]
    assert ("B", None) in await world.rows("SELECT key, sealed FROM secrets"), "it lags behind that"

    world.cloud.broken.clear()
    await world.execute("UPDATE secret_updates SET due_at_ms = 0")
    await world.work()
    assert world.cloud.has[broken] == {"A": "2"}
    assert await world.rows("SELECT * FROM secret_updates") == []
    assert world.cloud.has[retired] == {"A": "1", "B": "b"}
    assert ("B", None) in await world.rows("SELECT key, sealed FROM secrets")


@pytest.mark.accept("7.3.idempotent")
async def test_the_same_operation_is_done_once(world: World) -> None:
    first = await world.put(operation="op", A="1")
    assert (await world.put(operation="op", A="1")).version == first.version == 1
    assert (await world.put(operation="another", A="1")).version == 2
    assert (await world.delete("A", "B")).version == 3
    assert (await world.delete("A")).version == 3
    assert [fact.type_name() for fact in await world.stated("secret")] == [
        *("secret.set.v1", "secret.set.v1", "secret.deleted.v1")
    ]
    assert await world.rows("SELECT * FROM secrets") == [], "nobody needs to know of the deletion"
    assert (await world.put(operation="op", A="1")).version == 1
    assert await world.listed() == set(), "what was deleted since stays deleted"


@pytest.mark.accept("7.3.idempotent")
async def test_an_operation_that_comes_again_leaves_what_was_set_since(world: World) -> None:
    await world.put(operation="op", A="old")
    await world.put(A="new")
    assert (await world.put(operation="op", A="old")).version == 1
    deployment = await world.deploy()
    assert world.cloud.has[deployment.id] == {"A": "new"}

    await world.execute(f"UPDATE secret_operations SET done_at_ms = done_at_ms - {DAY_MS}")
    await secrets_store.forget_done(world.database)
    assert (await world.put(operation="op", A="old")).version == 1
    await world.execute(f"UPDATE secret_operations SET done_at_ms = done_at_ms - {DAY_MS}")
    await secrets_store.forget_done(world.database)
    assert await world.rows("SELECT * FROM secret_operations") == []


@pytest.mark.accept("7.3.bounded")
async def test_an_agents_changes_in_a_day_are_bounded(world: World) -> None:
    for _ in range(3):
        assert (await world.put(A="1", changes_a_day=3)).full_until_ms is None
    assert (await world.put(A="1", changes_a_day=3)).full_until_ms is not None
    assert (await world.delete("A")).version == 4, "a deletion is never refused"
    await world.execute("UPDATE events SET occurred_at_ms = 0")
    assert (await world.put(A="1", changes_a_day=3)).version == 5


@pytest.mark.accept("7.3.deleted")
async def test_a_deleted_agent_has_no_secrets_and_gets_none(world: World) -> None:
    await world.put(A="1")
    assert (await world.put(A="1", user_id="usr_2")).gone
    assert await world.listed("usr_2") == set(), "they are another's"
    assert await world.listed() == {"A"}
    deleted = TearDownAgent(
        command_id="cmd_2", causation_id="evt_2", user_id=USER, agent_id=world.agent_id
    )
    await world.commands.tear_down_agent(deleted)
    assert await world.rows("SELECT * FROM secrets") == []
    assert (await world.put(A="1")).gone
    assert (await world.delete("A")).gone
    assert await world.listed() == set()


@pytest.mark.accept("7.3.required")
async def test_a_deployment_without_a_required_secret_fails_with_its_name(world: World) -> None:
    await world.put(A="1")
    failed = await world.deploy(required_keys=("A", "MISSING"))
    assert failed.phase is Phase.FAILED
    assert failed.failure is not None
    assert (failed.failure.step, "MISSING" in failed.failure.message) == ("validate", True)
    assert "webhost secrets set" in failed.failure.message
    await world.put(MISSING="2")
    assert (await world.deploy(required_keys=("A", "MISSING"))).phase is Phase.LIVE


@pytest.mark.accept("7.3.sealed")
async def test_a_sealed_value_of_another_agent_is_not_opened(world: World) -> None:
    await world.put(A="1")
    foreign = SEALER.seal("foreign", Owner(USER, new_agent(), "A"))
    await world.execute(f"UPDATE secrets SET sealed = '{foreign}'")
    failed = await world.deploy()
    assert failed.phase is Phase.FAILED
    assert failed.failure is not None
    assert failed.failure.message.startswith("A secret cannot be opened: A was not sealed")
    assert world.cloud.has == {}


@pytest.mark.accept("7.4.secrets")
async def test_what_a_provider_says_of_a_value_is_not_shown(world: World) -> None:
    await world.put(A="a-value-to-hide")
    command = await world.command()
    world.cloud.broken.add(command.deployment_id)
    await world.work()
    [failed] = [it for it in await world.stated("deployment") if isinstance(it, DeploymentFailed)]
    assert failed.error.provider_message == "what is {'A': '[redacted]'}?"
    assert b"a-value-to-hide" not in b"".join(
        row[0] for row in await world.rows("SELECT envelope FROM events")
    )


@pytest.mark.accept("7.3.restored")
@pytest.mark.parametrize("first", ["secret", "deployment"])
async def test_a_value_that_a_restore_lost_is_not_set_and_can_be_deleted(
    world: World, first: str
) -> None:
    """Whichever of its aggregates' facts are recovered first."""
    await world.put(A="1")
    await world.put(B="2", C="3")
    live = (await world.deploy()).id
    await world.put(B="4")
    await world.delete("C")
    facts = await world.facts()
    await world.execute("TRUNCATE secrets, agent_secrets, secret_updates, deployments")
    async with world.database.transaction() as connection:
        for fact in sorted(facts, key=lambda fact: fact.event.kind() != first):
            await recover(connection, fact)
    assert await world.listed() == set()
    assert (await world.deployment(live)).secrets_version == 2
    await world.work()
    assert world.cloud.has[live] == {"A": "1", "B": "2"}, "what is lost stays, what is deleted goes"
    assert (await world.deployment(live)).secrets_version == 4

    await world.delete("A")
    await world.put(B="5")
    await world.work()
    assert world.cloud.has[live] == {"B": "5"}
    assert await world.listed() == {"B"}
