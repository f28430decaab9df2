"""An installation around its deployers: what the api would say, what came of it, the edge."""

import itertools
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
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
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_contracts.events.base import Envelope, Event
from webhost_contracts.signatures import INVOKE_SIGNATURE_HEADER
from webhost_deployer.recovery import TYPES
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url, parse_signers, public_keys
from webhost_local.child import tied_to_parent
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.edge import Edge
from tests.support.service import environment

ENDED = (DeploymentSucceeded, DeploymentFailed, DeploymentTornDown)
DEPLOY_S = 40.0
SAY = """
export default { async invoke(request) { return "hello " + request.input.messages[0].content; } };
"""
_numbers = itertools.count(1)


def _seed() -> str:
    return base64url(secrets.token_bytes(32))


class Harness:
    """One installation: its deployer processes, its view of the edge, and what was stated."""

    def __init__(self, edge: Edge, nats_url: str, dsn: str, directory: Path, bus: Bus) -> None:
        self.edge = edge
        self.dsn = dsn
        self.bus = bus
        self.crash_file = directory / "crash"
        self._log = directory / "deployer.log"
        self.user_id = f"usr_{secrets.token_hex(8)}"
        self.installation_id = f"ins_{secrets.token_hex(8)}"
        self.host = f"w{next(_numbers)}.example"
        self.events: list[tuple[str, Event]] = []
        invoke_seed = _seed()
        self._invoke_key = parse_signers(f"i1:{invoke_seed}", "test")[0]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._http = httpx.AsyncClient(timeout=10)
        self._api = httpx.AsyncClient(
            base_url=edge.api_base_url, headers={"Authorization": f"Bearer {edge.api_token}"}
        )
        self.env = environment(dsn, nats_url) | {
            "LOG_LEVEL": "info",
            "WEBHOST_INSTALLATION_ID": self.installation_id,
            "WEBHOST_CRASH_FILE": str(self.crash_file),
            "CLOUDFLARE_ACCOUNT_ID": edge.account_id,
            "CLOUDFLARE_API_TOKEN": edge.api_token,
            "CLOUDFLARE_API_BASE_URL": edge.api_base_url,
            "CLOUDFLARE_ZONE_ID": edge.zone_id,
            "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": self.host,
            "CONTROL_PLANE_TELEMETRY_REPORT_URL": "http://127.0.0.1:9/v1/telemetry/report",
            "TELEMETRY_MASTER_KEYS": f"1:{_seed()},2:{_seed()}",
            "INVOKE_PUBLIC_KEYS": ",".join(
                f"{k}:{v}" for k, v in public_keys((self._invoke_key,)).items()
            ),
            "PLATFORM_PRIVATE_KEYS": f"p1:{_seed()}",
            "WORKERS_CONNECT_TO": edge.origin.removeprefix("http://"),
        }

    # The deployer's processes

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "webhost_deployer"],
                env=self.env | {"OPS_LISTEN": f"127.0.0.1:{free_port()}"},
                stderr=log,
                preexec_fn=tied_to_parent(),
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End all deployers at once, as a kill does."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def logged(self, event: str) -> int:
        """How often the deployers logged this."""
        return self._log.read_text().count(f'"event": "{event}"')

    def crash_at(self, point: str) -> None:
        self.crash_file.write_text(point)

    async def died(self, process: subprocess.Popen[bytes]) -> None:
        async def dead() -> bool:
            return process.poll() is not None

        await eventually(dead, "the deployer's death", seconds=DEPLOY_S)

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

    async def delete(self, agent_id: str) -> None:
        command = TearDownAgent(**self._common(agent_id))
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

        await eventually(found, f"an event of {deployment_id}", seconds=seconds)
        return next(filter(what, self.stated(deployment_id)))

    async def until_quiet(self) -> None:
        """Wait until all commands are taken and nothing is due: teardowns and purges included."""

        async def quiet() -> bool:
            taken = (await self.bus.js.stream_info(subjects.COMMANDS)).state.messages == 0
            return taken and (
                self.scalar(
                    "SELECT (SELECT count(*) FROM deployments WHERE due_at_ms IS NOT NULL)"
                    " + (SELECT count(*) FROM agent_teardowns WHERE due_at_ms IS NOT NULL)"
                    " + (SELECT count(*) FROM outbox)"
                )
                == 0
            )

        await eventually(quiet, "the end of all work", seconds=DEPLOY_S)

    def phases(self) -> set[str]:
        phases = self.scalar("SELECT array_agg(DISTINCT phase) FROM deployments")
        return set(phases or [])

    def scalar(self, query: str) -> Any:
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    # The edge, from outside

    async def api(self, method: str, path: str, **options: Any) -> Any:
        response = await self._api.request(method, path, **options)
        response.raise_for_status()
        return response.json()["result"]

    async def scripts(self) -> list[str]:
        """The installation's scripts, the session Worker apart."""
        tag = f"installation-{self.installation_id}:yes"
        path = f"/accounts/{self.edge.account_id}/workers/scripts"
        found = await self.api("GET", path, params={"tags": tag})
        return [s["id"] for s in found if not s["id"].startswith("whs-sessions-")]

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
        call = {
            "protocol": "invoke/v1",
            "invocationId": new_id(ids.INVOCATION, now_ms()),
            "traceId": "t",
            "admittedAtMs": now_ms(),
            "input": {"messages": [{"role": "user", "content": text}]},
        }
        body = msgspec.json.encode(call | more)
        address = httpx.URL(url)
        return await self._http.post(
            self.edge.origin + address.path,
            content=body,
            headers={
                "Host": address.host,
                "Content-Type": "application/json",
                INVOKE_SIGNATURE_HEADER: self._invoke_key.header(now_ms(), deployment_id, body),
            },
        )

    async def get(self, url: str) -> httpx.Response:
        """Ask what anybody may ask."""
        address = httpx.URL(url)
        return await self._http.get(self.edge.origin + address.path, headers={"Host": address.host})

    async def close(self) -> None:
        self.stop()
        await self._http.aclose()
        await self._api.aclose()


def new_agent() -> str:
    return new_id(ids.AGENT, now_ms())


def new_deployment() -> str:
    return new_id(ids.DEPLOYMENT, now_ms())


async def put_script(harness: Harness, name: str, **metadata: object) -> None:
    described = {"main_module": "main.mjs", "compatibility_date": "2026-01-01", **metadata}
    code = "export default { fetch: (request, env) => env.S?.fetch(request) ?? new Response() };"
    await harness.api(
        "PUT",
        f"/accounts/{harness.edge.account_id}/workers/scripts/{name}",
        files={
            "metadata": (None, httpx.Response(200, json=described).content),
            "main.mjs": ("main.mjs", code, "application/javascript+module"),
        },
    )
