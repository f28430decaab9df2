"""An installation around its deployers: what the api would say, what came of it, the edge."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from nats.aio.msg import Msg
from webhost_contracts import ids, subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, Module, checksum_of
from webhost_contracts.commands import (
    DEPLOY,
    TEAR_DOWN,
    TEAR_DOWN_AGENT,
    Command,
    Deploy,
    TearDown,
    TearDownAgent,
)
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_contracts.events.base import Envelope, Event
from webhost_contracts.signatures import INVOKE_SIGNATURE_HEADER
from webhost_deployer.recovery import TYPES
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url, parse_signers, public_keys

from tests.support import harness
from tests.support.deadline import eventually
from tests.support.edge import Edge
from tests.support.service import ServiceProcess

ENDED = (DeploymentSucceeded, DeploymentFailed, DeploymentTornDown)
DEPLOY_S = 40.0
SAY = """
export default { async invoke(request) { return "hello " + request.input.messages[0].content; } };
"""
_numbers = itertools.count(1)


def _seed() -> str:
    return base64url(secrets.token_bytes(32))


@dataclass(kw_only=True)
class Harness(harness.Harness):
    """One installation: its deployer processes, its view of the edge, and what was stated."""

    edge: Edge
    directory: Path
    namespace: str | None = None
    events: list[tuple[str, Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.user_id = f"usr_{secrets.token_hex(8)}"
        self.installation_id = f"ins_{secrets.token_hex(8)}"
        self.host = f"w{next(_numbers)}.example"
        self._crash_file = self.directory / "crash"
        self._log = self.directory / "deployer.log"
        self._log.touch()
        invoke_seed = _seed()
        self.secrets_key = secrets.token_bytes(32)
        self.invoke_key = parse_signers(f"i1:{invoke_seed}", "test")[0]
        self._to_workers = httpx.AsyncClient(timeout=10)
        self._to_edge = httpx.AsyncClient(
            base_url=self.edge.api_base_url,
            headers={"Authorization": f"Bearer {self.edge.api_token}"},
        )
        self.env = {
            "LOG_LEVEL": "info",
            "WEBHOST_INSTALLATION_ID": self.installation_id,
            "WEBHOST_CRASH_FILE": str(self._crash_file),
            "CLOUDFLARE_ACCOUNT_ID": self.edge.account_id,
            "CLOUDFLARE_API_TOKEN": self.edge.api_token,
            "CLOUDFLARE_API_BASE_URL": self.edge.api_base_url,
            "CLOUDFLARE_ZONE_ID": self.edge.zone_id,
            "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": self.host,
            "CONTROL_PLANE_TELEMETRY_REPORT_URL": "http://127.0.0.1:9/v1/telemetry/report",
            "TELEMETRY_MASTER_KEYS": f"1:{_seed()},2:{_seed()}",
            "INVOKE_PUBLIC_KEYS": ",".join(
                f"{k}:{v}" for k, v in public_keys((self.invoke_key,)).items()
            ),
            "PLATFORM_PRIVATE_KEYS": f"p1:{_seed()}",
            "SECRETS_PRIVATE_KEYS": f"s1:{base64url(self.secrets_key)}",
            "WORKERS_CONNECT_TO": self.edge.origin.removeprefix("http://"),
        }
        if self.namespace is not None:
            self.env["CLOUDFLARE_DISPATCH_NAMESPACE"] = self.namespace

    # The deployer's processes

    async def start(self) -> ServiceProcess:
        """Start a deployer, beside those there are; it may be long in getting ready."""
        deployer = self.process("webhost_deployer", **self.env)
        deployer.log = self._log
        await deployer.launch()
        return deployer

    def logged(self, event: str) -> int:
        """How often the deployers logged this."""
        return self._log.read_text().count(f'"event": "{event}"')

    def crash_at(self, point: str) -> None:
        self._crash_file.write_text(point)

    # What the api would say

    async def store(self, *modules: Module) -> Artifact:
        body = wire.encode(Bundle(modules=modules))
        checksum = checksum_of(body)
        store = await self.bus.js.object_store(subjects.ARTIFACTS_BUCKET)
        await store.put(checksum, body)
        return Artifact(type=MODULES_TYPE, checksum=checksum, size_bytes=len(body))

    async def deploy(self, agent_id: str, code: str = SAY, **changes: Any) -> str:
        """Send the command; return the deployment's id."""
        command = msgspec.structs.replace(await self.deploy_command(agent_id, code), **changes)
        await self.send(DEPLOY, agent_id, command)
        return command.deployment_id

    async def deploy_command(self, agent_id: str, code: str = SAY) -> Deploy:
        deployment_id = new_deployment()
        return Deploy(
            **self._common(agent_id),
            deployment_id=deployment_id,
            deployment_version=1,
            tier="free",
            runtime_provider="cloudflare",
            artifact=await self.store(Module(name="index.mjs", content=code)),
            main_module_name="index.mjs",
            invoke_path="/invoke",
            compatibility_date="2026-01-01",
        )

    async def tear_down(self, agent_id: str, deployment_id: str, not_before_ms: int) -> None:
        command = TearDown(
            **self._common(agent_id), deployment_id=deployment_id, not_before_ms=not_before_ms
        )
        await self.send(TEAR_DOWN, agent_id, command)

    async def delete(self, agent_id: str, **changes: Any) -> None:
        command = TearDownAgent(**self._common(agent_id) | changes)
        await self.send(TEAR_DOWN_AGENT, agent_id, command)

    async def send(self, verb: str, aggregate_id: str, command: Command) -> None:
        subject = subjects.command("deployer", verb, aggregate_id)
        await self.bus.js.publish(subject, wire.encode(command), headers=command.headers())

    def _common(self, agent_id: str) -> dict[str, str]:
        command_id = new_id(ids.COMMAND, now_ms())
        return {
            "command_id": command_id,
            "causation_id": f"evt_{command_id}",
            "user_id": self.user_id,
            "agent_id": agent_id,
        }

    # What came of it

    async def listen(self) -> None:
        async def on_event(message: Msg) -> None:
            envelope = wire.decode(message.data, Envelope)
            event = envelope.event(TYPES)
            assert event is not None
            self.events.append((envelope.aggregate_id, event))

        await self.bus.js.subscribe(
            subjects.events_of_kind("deployment"), cb=on_event, ordered_consumer=True
        )

    def stated(self, deployment_id: str) -> list[Event]:
        return [event for about, event in self.events if about == deployment_id]

    async def until_stated(
        self,
        deployment_id: str,
        what: Callable[[Event], bool] = lambda e: isinstance(e, ENDED),
        seconds: float = DEPLOY_S,
    ) -> Event:
        """Wait for an event of this deployment, by default for one that ends its saga."""

        async def found() -> bool:
            return any(map(what, self.stated(deployment_id)))

        try:
            await eventually(found, f"an event of {deployment_id}", seconds=seconds)
        except AssertionError as error:
            error.add_note(f"stated: {self.stated(deployment_id)}")
            error.add_note(f"the edge ended with {self.edge.process.returncode}")
            for log in (self.edge.log, self._log):
                error.add_note("\n".join(log.read_text().splitlines()[-20:]))
            raise
        return next(filter(what, self.stated(deployment_id)))

    async def until_quiet(self) -> None:
        """Wait until all commands are taken and nothing is due: teardowns and purges included."""

        async def quiet() -> bool:
            taken = (await self.bus.js.stream_info(subjects.COMMANDS)).state.messages == 0
            return taken and (
                await self.scalar(
                    "SELECT (SELECT count(*) FROM deployments WHERE due_at_ms IS NOT NULL)"
                    " + (SELECT count(*) FROM agent_teardowns WHERE due_at_ms IS NOT NULL)"
                    " + (SELECT count(*) FROM secret_updates)"
                    " + (SELECT count(*) FROM front_updates)"
                    " + (SELECT count(*) FROM outbox)"
                )
                == 0
            )

        await eventually(quiet, "the end of all work", seconds=DEPLOY_S)

    async def phases(self) -> set[str]:
        return {row["phase"] for row in await self.rows("SELECT phase FROM deployments")}

    # The edge, from outside

    async def api(self, method: str, path: str, **options: Any) -> Any:
        response = await self._to_edge.request(method, path, **options)
        response.raise_for_status()
        return response.json()["result"]

    async def scripts(self) -> list[str]:
        """The deployments that have any script, by the name of the one that is called first."""
        listed = await self.listed(f"{self._workers}/scripts")
        own = ("whs-sessions", "whs-dispatch", "whs-outbound")
        deployed = [name for name in listed if not name.startswith(own)]
        fronts = sorted({name.removesuffix("-code") for name in deployed})
        if self.namespace is None:
            return fronts
        return fronts + await self.listed(self.scripts_path(self.namespace))

    def scripts_path(self, namespace: str | None) -> str:
        """Where the API has the scripts of this dispatch namespace, or the account's own."""
        within = "" if namespace is None else f"/dispatch/namespaces/{namespace}"
        return f"{self._workers}{within}/scripts"

    async def listed(self, path: str, tag: str | None = "installation") -> list[str]:
        wanted = {} if tag is None else {"tags": f"{tag}-{self.installation_id}:yes"}
        return [s["id"] for s in await self.api("GET", path, params=wanted)]

    @property
    def _workers(self) -> str:
        return f"/accounts/{self.edge.account_id}/workers"

    async def session_workers(self) -> list[str]:
        found = await self.api("GET", f"/accounts/{self.edge.account_id}/workers/scripts")
        suffix = ids.suffix(self.installation_id)
        return [s["id"] for s in found if s["id"] == f"whs-sessions-{suffix}"]

    async def routes(self) -> list[str]:
        """The patterns of deployments' routes on this installation's host."""
        found = await self.api("GET", f"/zones/{self.edge.zone_id}/workers/routes")
        return [r["pattern"] for r in found if r["pattern"].startswith(f"{self.host}/dep/")]

    async def invoke(self, url: str, deployment_id: str, text: str, **more: Any) -> httpx.Response:
        """Call a deployment as the gateway would."""
        started = self.stated(deployment_id)[0]
        assert isinstance(started, DeploymentStarted)
        call = {
            "timeoutMs": 60_000,
            "deployment": {
                "userId": self.user_id,
                "agentId": started.agent_id,
                "keyVersion": started.key_version,
                "keyGeneration": started.key_generation,
            },
            "protocol": "invoke/v1",
            "invocationId": new_id(ids.INVOCATION, now_ms()),
            "traceId": "t",
            "admittedAtMs": now_ms(),
            "input": {"messages": [{"role": "user", "content": text}]},
        }
        body = msgspec.json.encode(call | more)
        address = httpx.URL(url)
        return await self._to_workers.post(
            self.edge.origin + address.path,
            content=body,
            headers={
                "Host": address.host,
                "Content-Type": "application/json",
                INVOKE_SIGNATURE_HEADER: self.invoke_key.header(now_ms(), deployment_id, body),
            },
        )

    async def get(self, url: str) -> httpx.Response:
        """Ask what anybody may ask."""
        address = httpx.URL(url)
        return await self._to_workers.get(
            self.edge.origin + address.path, headers={"Host": address.host}
        )

    async def close(self) -> None:
        await super().close()
        await self._to_workers.aclose()
        await self._to_edge.aclose()


def new_agent() -> str:
    return new_id(ids.AGENT, now_ms())


def new_deployment() -> str:
    return new_id(ids.DEPLOYMENT, now_ms())


async def put_script(
    harness: Harness, name: str, namespace: str | None = None, **metadata: object
) -> None:
    """Upload a script of the test's own, into this dispatch namespace or onto the account."""
    described = {"main_module": "main.mjs", "compatibility_date": "2026-01-01", **metadata}
    code = "export default { fetch: (request, env) => env.S?.fetch(request) ?? new Response() };"
    await harness.api(
        "PUT",
        f"{harness.scripts_path(namespace)}/{name}",
        files={
            "metadata": (None, httpx.Response(200, json=described).content),
            "main.mjs": ("main.mjs", code, "application/javascript+module"),
        },
    )
