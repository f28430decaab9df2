"""One saga after another in the test's own process, each with its own line to Cloudflare.

Real are the tables, the saga and its executor, the provider and the edge; commands are handed over
without a bus, and the backoffs are short. Facts are read from the event table.
"""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
from sqlalchemy import text
from webhost_contracts import ids
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, Module
from webhost_contracts.commands import Deploy, TearDown, TearDownAgent
from webhost_contracts.rpc import SetSecretsRequest
from webhost_deployer import app, executor, saga
from webhost_deployer.app import cloudflare_of
from webhost_deployer.capacity import Capacity
from webhost_deployer.cloudflare import failures, sdk, worker_client
from webhost_deployer.cloudflare.orphans import Plan
from webhost_deployer.cloudflare.rate_limiter import CAPACITY, REFILL_PER_S, RateLimiter
from webhost_deployer.cloudflare.reconciliation import Reconciliation
from webhost_deployer.executor import Executor
from webhost_deployer.handlers import Handlers
from webhost_deployer.secrets.handlers import SecretHandlers
from webhost_deployer.secrets.values import SecretValues
from webhost_deployer.settings import Settings
from webhost_deployer.steps import Steps
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import Lock
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url, parse_signers, public_keys
from webhost_kit.process.service import Service
from webhost_kit.sealing import Owner, Sealer, public_half

from tests.integration.deployer.faulty_cloudflare import (
    RETRY_AFTER_S,
    Fault,
    FaultyCloudflare,
    Line,
)
from tests.integration.deployer.harness import SAY
from tests.support.edge import Edge
from tests.support.harness import in_background

CASE_S = 90.0
AT_ONCE = 6
NOT_AN_AGENT = "export default { hello: 1 };"
CODES = {"sha256:good": SAY, "sha256:bad": NOT_AN_AGENT}
TIMEOUT_S = 6.0
SECRET = "KEY"
_TOKENS = "SELECT tokens FROM rate_limits WHERE name = :budget"
_numbers = itertools.count(1)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and wait shortly for answers; each case has a call budget of its own."""
    monkeypatch.setattr(saga, "FIRST_DELAY_MS", 50)
    monkeypatch.setattr(saga, "LONGEST_DELAY_MS", 200)
    monkeypatch.setattr(saga, "LONGEST_TEARDOWN_DELAY_MS", 200)
    monkeypatch.setattr(sdk, "TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(worker_client, "TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(app, "RateLimiter", _OwnBudget)


class _OwnBudget(RateLimiter):
    def __init__(self, database: Database, name: str) -> None:
        super().__init__(database, f"{name} {next(_numbers)}")

    @property
    def name(self) -> str:
        return self._name


class _NoLock:
    async def confirm(self) -> None:
        pass


@dataclass
class Ground:
    """What all cases stand on. `installation_id` is of an installation that others use too. Where
    Workers are at `on_workers_dev`, there are no routes.
    """

    edge: Edge
    cloudflare: FaultyCloudflare
    database: Database
    bus: Bus
    namespace: str | None
    on_workers_dev: bool = False
    installation_id: str = field(default_factory=lambda: f"ins_{secrets.token_hex(8)}")

    async def api(self, method: str, path: str, **options: Any) -> Any:
        """Call the edge's API past every fault."""
        headers = {"Authorization": f"Bearer {self.edge.api_token}"}
        url = self.edge.api_base_url + path
        async with self.edge.http.request(method, url, headers=headers, **options) as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            return (await response.json())["result"]

    @property
    def workers(self) -> str:
        return f"/accounts/{self.edge.account_id}/workers"

    def scripts_path(self, namespace: str | None) -> str:
        within = "" if namespace is None else f"/dispatch/namespaces/{namespace}"
        return f"{self.workers}{within}/scripts"

    async def scripts(self, tag: str, namespace: str | None) -> set[str]:
        """The scripts that have this tag, on the account and in this namespace."""
        found: set[str] = set()
        for within in {None, namespace}:
            listed = await self.api("GET", self.scripts_path(within))
            found |= {it["id"] for it in listed or () if tag in it["tags"]}
        return found

    async def routes(self, host: str) -> set[str]:
        found = await self.api("GET", f"/zones/{self.edge.zone_id}/workers/routes")
        return {it["pattern"] for it in found if it["pattern"].startswith(f"{host}/")}


class Case:
    """A deployer of its own, with one agent."""

    def __init__(
        self,
        ground: Ground,
        installation_id: str,
        namespace: str | None,
        line: Line,
        handlers: Handlers,
        secret_handlers: SecretHandlers,
        works: Executor,
        budget: str,
    ) -> None:
        self.ground = ground
        self.installation_id = installation_id
        self.namespace = namespace
        self.line = line
        self.handlers = handlers
        self.secret_handlers = secret_handlers
        self.user_id = f"usr_{secrets.token_hex(8)}"
        self.agent_id = new_id(ids.AGENT, now_ms())
        self.deployment_id = new_id(ids.DEPLOYMENT, now_ms())
        self.secrets_version: int | None = 0
        self.reconciliation: Reconciliation
        self._executor = works
        self._budget = budget
        self._unblocked = False
        self._refilled = 0.0
        self._began_ms = now_ms()

    async def deploy(self, checksum: str = "sha256:good") -> None:
        """Have the agent deployed; return when nothing is due any more."""
        await self.deploy_command(checksum)
        await self.work()

    async def deploy_while_a_secret_is_set(self) -> None:
        """Have it deployed; a secret that it has not is set when it is probed."""
        await self.deploy_command()
        await self.work(lambda: not any(call.endswith("/probe") for call in self.line.made))
        await self.set_secret()

    async def deploy_command(self, checksum: str = "sha256:good") -> None:
        """Have the command taken, and nothing done yet."""
        command = Deploy(
            **self._common(),
            deployment_id=self.deployment_id,
            deployment_version=1,
            tier="free",
            runtime_provider="cloudflare",
            artifact=Artifact(type=MODULES_TYPE, checksum=checksum, size_bytes=1),
            main_module_name="index.mjs",
            invoke_path="/invoke",
            compatibility_date="2026-01-01",
        )
        await self.handlers.deploy(command)

    async def set_secret(self) -> None:
        """Have a secret set, and brought to the Worker."""
        owner = Owner(self.user_id, self.agent_id, SECRET)
        request = SetSecretsRequest(
            user_id=self.user_id,
            agent_id=self.agent_id,
            actor=f"user:{self.user_id}",
            sealed={SECRET: _SEALER.seal("value", owner)},
            operation=secrets.token_hex(8),
        )
        self.secrets_version = (await self.secret_handlers.set_secrets(request)).version
        await self.work()

    async def retire(self) -> None:
        """Have the deployment retired."""
        command = TearDown(
            **self._common(), deployment_id=self.deployment_id, not_before_ms=now_ms()
        )
        await self.handlers.tear_down(command)
        await self.work()

    async def delete(self) -> None:
        """Have the agent deleted, its sessions too."""
        await self.handlers.tear_down_agent(TearDownAgent(**self._common()))
        await self.work()

    async def work(self, may_go_on: Callable[[], bool] = lambda: True) -> None:
        """Do what is due until nothing is, or as long as it may go on."""
        async with asyncio.timeout(CASE_S), in_background(self._let_a_block_pass()):
            while may_go_on() and (due := await self._due_at_ms()) is not None:
                # By the executor's clock, which a test may have moved.
                await asyncio.sleep(max(0, due - executor.now_ms()) / 1000)
                await self._executor.execute(self.agent_id, cast(Lock, _NoLock()), may_go_on)

    async def facts(self) -> list[str]:
        """What was stated about the deployment and the agent, by type, in order."""
        rows = await self._rows(
            "SELECT aggregate_id, version, type FROM events WHERE aggregate_id IN (:dep, :agent)"
            " ORDER BY occurred_at_ms, aggregate_id DESC, version"
        )
        for about in (self.deployment_id, self.agent_id):
            versions = [version for aggregate, version, _ in rows if aggregate == about]
            assert versions == [*range(1, len(versions) + 1)]
        return [kind.removesuffix(".v1") for _, _, kind in rows]

    async def state(self) -> Any:
        [(found,)] = await self._rows("SELECT state FROM deployments WHERE deployment_id = :dep")
        return found

    async def check_rate(self) -> None:
        """Every call to the API was taken from the budget, and none was made while blocked."""
        calls = sum("/accounts/" in it or "/zones/" in it for it in self.line.made)
        [(tokens,)] = await self._rows(_TOKENS)
        seconds = (now_ms() - self._began_ms) / 1000
        assert calls <= CAPACITY - tokens + self._refilled + seconds * REFILL_PER_S + 1
        assert calls <= CAPACITY + seconds * REFILL_PER_S or self._unblocked
        if self.line.fault is Fault.TOO_MANY_SECONDS and self.line.struck is not None:
            later = [at for at in self.line.made_at_ms if at > self.line.struck_at_ms]
            assert all(at >= self.line.struck_at_ms + RETRY_AFTER_S * 900 for at in later)

    async def _let_a_block_pass(self) -> None:
        """After a 429 that did not say how long: see that no call is made, and let it pass."""
        line = self.line
        if line.fault is not Fault.TOO_MANY:
            return
        while not self._unblocked:
            await asyncio.sleep(0.1)
            [(tokens,)] = await self._rows(_TOKENS) or [(0,)]
            if tokens > -0.9 * failures.BLOCKED_S * REFILL_PER_S:
                continue
            made = len(line.made)
            await asyncio.sleep(1)
            assert made == len(line.made), "a call was made while all are blocked"
            async with self.ground.database.transaction() as connection:
                await connection.execute(
                    text("UPDATE rate_limits SET tokens = :full WHERE name = :budget"),
                    {"full": CAPACITY, "budget": self._budget},
                )
            self._refilled += CAPACITY - tokens
            self._unblocked = True

    async def _due_at_ms(self) -> int | None:
        [(due,)] = await self._rows(
            "SELECT min(due_at_ms) FROM (SELECT due_at_ms FROM deployments WHERE agent_id = :agent"
            " UNION ALL SELECT due_at_ms FROM agent_teardowns WHERE agent_id = :agent"
            " UNION ALL SELECT due_at_ms FROM secret_updates WHERE agent_id = :agent) due"
        )
        return due

    async def _rows(self, query: str) -> list[Any]:
        bound = {"agent": self.agent_id, "dep": self.deployment_id, "budget": self._budget}
        used = {name: value for name, value in bound.items() if f":{name}" in query}
        async with self.ground.database.transaction() as connection:
            return list(await connection.execute(text(query), used))

    def _common(self) -> dict[str, Any]:
        command_id = new_id(ids.COMMAND, now_ms())
        return {
            "command_id": command_id,
            "causation_id": f"evt_{command_id}",
            "user_id": self.user_id,
            "agent_id": self.agent_id,
        }


@asynccontextmanager
async def case_of(
    ground: Ground, fault: Fault | None = None, *, fresh: bool = True
) -> AsyncGenerator[Case]:
    """A case whose line is in order yet. `fresh`: of an installation that has nothing yet."""
    line = Line(f"c{next(_numbers)}.example", fault)
    installation_id, namespace = ground.installation_id, ground.namespace
    if fresh:
        installation_id = f"ins_{secrets.token_hex(8)}"
        namespace = namespace and f"customers-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ground.cloudflare.line(line))
        service = await stack.enter_async_context(aclosing(Service("deployer")))
        settings = cast(Any, Settings)(**_settings(ground, line, installation_id, namespace))
        provider, account = cloudflare_of(service, settings, ground.database)
        [budget] = [it for it in _parts(provider) if isinstance(it, _OwnBudget)]
        steps = Steps(
            {"cloudflare": provider},
            _read,
            Capacity(ground.database, None),
            SecretValues(ground.database, settings.opener),
        )
        handlers = Handlers(ground.database, 1, namespace, lambda: None)
        works = Executor(ground.database, steps, lambda: 1.0)
        secret_handlers = SecretHandlers(ground.database, lambda: None)
        case = Case(
            ground,
            installation_id,
            namespace,
            line,
            handlers,
            secret_handlers,
            works,
            budget.name,
        )
        case.reconciliation = Reconciliation(
            ground.database,
            ground.bus,
            account,
            settings.routing,
            partial(provider.refresh_installation, namespace),
            every_s=300,
        )
        yield case


def _parts(provider: Any) -> list[object]:
    return [provider._api._sdk._limit]


async def _read(artifact: Artifact) -> Bundle:
    return Bundle(modules=(Module(name="index.mjs", content=CODES[artifact.checksum]),))


_SEEDS = [base64url(secrets.token_bytes(32)) for _ in range(3)]
_SECRETS_KEY = secrets.token_bytes(32)
_SEALER = Sealer.parse(f"s1:{base64url(public_half(_SECRETS_KEY))}", "PUBLIC")


def _settings(
    ground: Ground, line: Line, installation_id: str, namespace: str | None
) -> dict[str, Any]:
    signers = parse_signers(f"i1:{_SEEDS[0]}", "test")
    addresses = {
        "cloudflare_zone_id": ground.edge.zone_id,
        "cloudflare_workers_custom_domain": line.host,
    }
    if ground.on_workers_dev:
        addresses = {"cloudflare_workers_dev_subdomain": ground.edge.subdomain}
    return addresses | {
        "webhost_local_stack": True,
        "webhost_installation_id": installation_id,
        "nats_url": "nats://unused",
        "database_url": ground.database.dsn,
        "ops_listen": "127.0.0.1:1",
        "cloudflare_account_id": ground.edge.account_id,
        "cloudflare_api_token": ground.edge.api_token,
        "cloudflare_api_base_url": line.api_base_url,
        "cloudflare_dispatch_namespace": namespace,
        "control_plane_telemetry_report_url": "http://127.0.0.1:9/v1/telemetry/report",
        "telemetry_master_keys": f"1:{_SEEDS[1]}",
        "invoke_public_keys": ",".join(f"{k}:{v}" for k, v in public_keys(signers).items()),
        "platform_private_keys": f"p1:{_SEEDS[2]}",
        "secrets_private_keys": f"s1:{base64url(_SECRETS_KEY)}",
        "workers_connect_to": line.address,
    }


async def all_of(work: list[Callable[[], Awaitable[None]]]) -> None:
    """Do all of this, AT_ONCE at a time; fail with the first that failed."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(it: Callable[[], Awaitable[None]]) -> None:
        async with places:
            await it()

    async with asyncio.TaskGroup() as group:
        for it in work:
            group.create_task(one(it))


async def reconciled(case: Case, *, dry_run: bool) -> Plan:
    """What a reconciliation finds, on a line that is in order again."""
    case.line.fault = None
    return await case.reconciliation.once(dry_run=dry_run)


@contextmanager
def counting(config: pytest.Config, what: str) -> Generator[Counter[str]]:
    """Count runs, by how they ended; print it all when the block ends."""
    counts, began = Counter[str](), time.monotonic()
    yield counts
    line = ", ".join(f"{ended}: {count}" for ended, count in sorted(counts.items()))
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{what}: {counts.total()} in {time.monotonic() - began:.0f} s; {line}")
