"""Deployments on a local edge without a deployer: the platform's own scripts, and calls to them.

Everything is real but the services: fronts, session store and agent scripts are uploaded as the
deployer uploads them, calls are signed as the gateway signs them, and reports are taken where
telemetry-ingest would take them.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from webhost_contracts import ids
from webhost_contracts.artifacts import Artifact, Bundle, Module
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import DeploymentStarted
from webhost_contracts.signatures import (
    INVOKE_SIGNATURE_HEADER,
    TELEMETRY_DEPLOYMENT_HEADER,
    TELEMETRY_SIGNATURE_HEADER,
    telemetry_signature_matches,
)
from webhost_deployer.cloudflare.addresses import CustomDomain
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.cloudflare.layouts import DispatchNamespace, Layout, PlainAccount
from webhost_deployer.cloudflare.namespaces import UserWorkers
from webhost_deployer.cloudflare.provider import Cloudflare
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.scripts import WorkerEnvironment
from webhost_deployer.cloudflare.sdk import Sdk
from webhost_deployer.cloudflare.worker_client import WorkerClient
from webhost_deployer.model import Deployment
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import MasterKeys, base64url, parse_signers, public_keys

from tests.support.edge import Edge
from tests.support.serving import serving

HOST = "workers.example"
CPU_MS = 500


@dataclass
class Answer:
    """What a call was answered with: `body` may be cut off, `seconds` is how long it took."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclass
class Harness:
    """An edge with the platform's scripts of one layout."""

    edge: Edge
    layout: str
    provider: Cloudflare
    master_keys: MasterKeys
    invoke_seed: str
    reports_port: int
    taken: list[bytes] = field(default_factory=list)
    """All that came to where reports are taken."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """What was reported with a right signature."""
    refused: set[str] = field(default_factory=set)
    """In whose name it was reported with a wrong one."""
    report_delay_s: float = 0
    """For how long a report's answer is held back."""

    def __post_init__(self) -> None:
        (self._signer,) = parse_signers(f"i1:{self.invoke_seed}", "test")

    async def deploy(self, source: str, agent_id: str | None = None) -> Deployment:
        """Deploy a module for an agent of its own, or for this one. Raises ProviderError."""
        return await self.deploy_bundle(
            Bundle(modules=(Module(name="main.mjs", content=source),)), agent_id
        )

    async def deploy_bundle(self, bundle: Bundle, agent_id: str | None = None) -> Deployment:
        """Deploy modules, the main one `main.mjs`. Raises ProviderError."""
        artifact = Artifact(type="modules", checksum="sha256:" + "0" * 64, size_bytes=1)
        agent_id = agent_id or new_id(ids.AGENT, now_ms())
        started = DeploymentStarted(
            agent_id=agent_id,
            deployment_version=1,
            tier="free",
            runtime_provider="cloudflare",
            artifact=artifact,
            main_module_name="main.mjs",
            invoke_path="/invoke",
            compatibility_date="2026-01-01",
            key_version=1,
            key_generation=1,
        )
        deployment = Deployment(
            id=new_id(ids.DEPLOYMENT, now_ms()),
            user_id=f"usr_{secrets.token_hex(8)}",
            agent_id=agent_id,
            started=started,
        )
        await self.provider.ensure_installation(deployment)
        assert self.provider.problem_of(deployment, bundle) is None
        await self.provider.upload(deployment, bundle, {})
        await self.provider.route(deployment)
        return deployment

    def address(self, deployment: Deployment) -> str:
        """The deployment's address for calls, on the edge's origin."""
        return self.provider.invoke_url(deployment).replace(f"https://{HOST}", self.edge.origin)

    async def post(self, url: str, body: bytes = b"{}", **headers: str) -> Answer:
        """POST what anybody may."""
        began = time.monotonic()
        async with self.edge.http.post(
            url, data=body, headers={"Host": HOST, **headers}, allow_redirects=False
        ) as found:
            said = bytearray()
            try:
                async for chunk in found.content.iter_any():
                    said += chunk
            except aiohttp.ClientPayloadError:
                said += b"[cut off]"
            seconds = time.monotonic() - began
            return Answer(found.status, dict(found.headers), bytes(said), seconds)

    async def call(
        self,
        deployment: Deployment,
        text: str,
        *,
        stream: bool = False,
        session_id: str | None = None,
        timeout_ms: int = 3_000,
        cpu_ms: int = CPU_MS,
    ) -> tuple[str, Answer]:
        """Call as the gateway would; return the invocation's id and the answer."""
        invocation_id = new_id(ids.INVOCATION, now_ms())
        plan = deployment.plan
        body = msgspec.json.encode(
            {
                "protocol": "invoke/v1",
                "invocationId": invocation_id,
                "traceId": "t",
                "admittedAtMs": now_ms(),
                "timeoutMs": timeout_ms,
                "sessionId": session_id,
                "deployment": {
                    "userId": deployment.user_id,
                    "agentId": deployment.agent_id,
                    "keyVersion": plan.key_version,
                    "keyGeneration": plan.key_generation,
                    "limits": {"cpuMs": cpu_ms},
                },
                "input": {"messages": [{"role": "user", "content": text}]},
            }
        )
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            INVOKE_SIGNATURE_HEADER: self._signer.header(now_ms(), deployment.id, body),
        }
        return invocation_id, await self.post(self.address(deployment), body, **headers)

    @property
    def report_url(self) -> str:
        """Where reports are taken."""
        return f"http://127.0.0.1:{self.reports_port}/v1/telemetry/report"

    def telemetry_key(self, deployment: Deployment) -> bytes:
        """The deployment's own."""
        plan = deployment.plan
        key = self.master_keys.telemetry_key(plan.key_version, deployment.id, plan.key_generation)
        assert key is not None
        return key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take a report, as telemetry-ingest would."""
        request = Request(scope, receive)
        body = await request.body()
        self.taken.append(body)
        await asyncio.sleep(self.report_delay_s)
        deployment_id = request.headers.get(TELEMETRY_DEPLOYMENT_HEADER, "")
        signature = request.headers.get(TELEMETRY_SIGNATURE_HEADER, "").encode()
        key = self.master_keys.telemetry_key(1, deployment_id, 1)
        valid = key is not None and telemetry_signature_matches(key, body, signature)
        if valid:
            self.reports.append(msgspec.json.decode(body))
        else:
            self.refused.add(deployment_id)
        await Response(status_code=202 if valid else 401)(scope, receive, send)


@asynccontextmanager
async def running_harness(
    edge: Edge, reports_port: int, dsn: str, layout: str, egress: Egress | None = None
) -> AsyncIterator[Harness]:
    """The platform's scripts on this edge, `account` or `namespace`, and who takes reports."""
    upgrade(dsn, "webhost_deployer")
    database = Database(dsn)
    installation_id = f"ins_{secrets.token_hex(8)}"
    master_keys = MasterKeys({1: secrets.token_bytes(32)})
    invoke_seed, platform_seed = (base64url(secrets.token_bytes(32)) for _ in range(2))
    platform_signers = parse_signers(f"p1:{platform_seed}", "test")
    sdk = Sdk(edge.api_token, edge.api_base_url, edge.account_id, RateLimiter(database, "test"))
    api = CloudflareApi(sdk, edge.zone_id, installation_id)
    routing = CustomDomain(HOST, edge.zone_id)
    environment = WorkerEnvironment(
        installation_id=installation_id,
        telemetry_report_url=f"http://127.0.0.1:{reports_port}/v1/telemetry/report",
        invoke_public_keys=public_keys(parse_signers(f"i1:{invoke_seed}", "test")),
        platform_public_keys=public_keys(platform_signers),
        session_idle_days=30,
    )
    tier = Entitlements(requests_per_minute=1, telemetry_days=1, log_days=1, cpu_ms=CPU_MS)
    common = routing, environment, master_keys, {"free": tier}
    chosen: Layout = PlainAccount(api, *common)
    if layout == "namespace":
        user_workers = UserWorkers(sdk, "customers", installation_id)
        chosen = DispatchNamespace(api, user_workers, *common, egress or Egress())
    workers = WorkerClient(platform_signers[0], edge.origin.removeprefix("http://"))
    provider = Cloudflare(api, workers, routing, environment, lambda _: chosen, dsn)
    made = Harness(edge, layout, provider, master_keys, invoke_seed, reports_port)
    try:
        async with serving(made, reports_port):
            yield made
    finally:
        await workers.close()
        await sdk.close()
        await database.close()
