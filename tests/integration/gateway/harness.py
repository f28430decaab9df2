"""What a gateway stands between: bus, database, issuer, a Worker; and the gateway processes."""

import io
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import (
    AgentCreated,
    DeploymentActivated,
    DeploymentSucceeded,
    Envelope,
    InvocationFinished,
    TierChanged,
)
from webhost_contracts.events.base import Event
from webhost_contracts.events.packets import PACKET
from webhost_contracts.totals import Totals
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url

from tests.integration.gateway.worker import Worker
from tests.support import harness
from tests.support.deadline import eventually
from tests.support.facts import deployment_started
from tests.support.issuer import TestIssuer
from tests.support.service import ServiceProcess

RESPONSE_KEYS = f"r1:{base64url(b'r' * 32)}"

TIERS = """
[free]
requests = 1000
tokens = 100
computeMs = 1000
requestsPerMinute = 100000
telemetryDays = 1
logDays = 1

[small]
requests = 20
requestsPerMinute = 100000
telemetryDays = 1
logDays = 1

[narrow]
concurrency = 3
requestsPerMinute = 100000
telemetryDays = 1
logDays = 1

[slow]
requestsPerMinute = 2
telemetryDays = 1
logDays = 1

[paced]
requestsPerMinute = 600
telemetryDays = 1
logDays = 1
"""


@dataclass
class Agent:
    """A user with one deployed agent."""

    user_id: str
    agent_id: str
    deployment_id: str
    token: str
    versions: dict[str, int] = field(default_factory=dict)
    subject: str = ""


Gateway = ServiceProcess


@dataclass(kw_only=True)
class Harness(harness.Harness):
    """Everything around the gateways of one test."""

    issuer: TestIssuer
    worker: Worker
    worker_url: str
    key: Ed25519PrivateKey
    directory: Path
    gateways: list[Gateway] = field(default_factory=list)

    async def start(self, **env: str) -> Gateway:
        """Start a gateway and return once it is ready."""
        tiers = self.directory / "tiers.toml"
        tiers.write_text(TIERS)
        own = {
            "JWT_ISSUER": self.issuer.url,
            "INVOKE_PRIVATE_KEYS": f"k1:{base64url(self.key.private_bytes_raw())}",
            "RESPONSE_KEYS": RESPONSE_KEYS,
            "WORKERS_CONNECT_TO": self.worker_url.removeprefix("http://"),
            "CORS_ALLOWED_ORIGINS": "https://app.example",
            "WEBHOST_TIERS_FILE": str(tiers),
            "WEBHOST_CRASH_FILE": str(self.directory / f"crash-{len(self.gateways)}"),
            "LOG_LEVEL": "warning",
        }
        gateway = self.process("webhost_gateway", **(own | env))
        self.gateways.append(gateway)
        await gateway.start()
        return gateway

    async def tell(self, agent: Agent, fact: Event) -> None:
        """Publish the agent's, its deployment's or its user's next fact."""
        kind = fact.kind()
        aggregate_id = {
            "agent": agent.agent_id,
            "deployment": getattr(fact, "deployment_id", agent.deployment_id),
            "account": agent.user_id,
        }[kind]
        version = agent.versions[aggregate_id] = agent.versions.get(aggregate_id, 0) + 1
        await self.given(agent.user_id, aggregate_id, fact, version=version)

    async def deploy(self, agent: Agent, deployment_id: str, invoke_url: str | None = None) -> None:
        """Publish a deployment's success. The pointer stays where it is."""
        agent.deployment_id = deployment_id
        started = deployment_started(agent.agent_id)
        await self.tell(agent, started)
        url = invoke_url or f"https://workers.example/dep/{deployment_id}/invoke"
        await self.tell(
            agent, DeploymentSucceeded(agent_id=agent.agent_id, worker_name="w", invoke_url=url)
        )

    async def point(self, agent: Agent, deployment_id: str) -> None:
        await self.tell(
            agent,
            DeploymentActivated(deployment_id=deployment_id, pointer_revision=1, cause="deploy"),
        )

    async def agent(self, tier: str | None = None) -> Agent:
        """A new user, of this tier, with an agent that answers."""
        subject = secrets.token_hex(8)
        agent = Agent(
            user_id=ids.user_id(self.issuer.url, subject),
            agent_id=new_id(ids.AGENT, now_ms()),
            deployment_id="",
            token=self.issuer.token(subject),
            subject=subject,
        )
        if tier is not None:
            await self.tell(agent, TierChanged(tier=tier, previous_tier="free", source="test"))
        await self.tell(agent, AgentCreated(name="a"))
        await self.deploy(agent, new_id(ids.DEPLOYMENT, now_ms()))
        await self.point(agent, agent.deployment_id)
        return agent

    async def charge(self, agent: Agent, totals: Totals, period: str) -> None:
        kv = await self.bus.js.key_value(subjects.TOTALS_BUCKET)
        await kv.put(subjects.totals_key(agent.user_id, period), wire.encode(totals))

    def post(
        self,
        gateway: Gateway,
        agent: Agent,
        body: Any = None,
        *,
        stream: bool = False,
        headers: dict[str, str] | None = None,
    ):
        """Invoke; a context manager of the response."""
        path = f"/v1/invoke/{agent.agent_id}" + ("/stream" if stream else "")
        return self.http.post(
            gateway.url + path,
            data=io.BytesIO(msgspec.json.encode(body or {"input": {"prompt": "hi"}})),
            headers={"Authorization": f"Bearer {agent.token}"} | (headers or {}),
        )

    async def invoke(self, gateway: Gateway, agent: Agent, body: Any = None, **kwargs: Any):
        """Invoke; return status and decoded body."""
        async with self.post(gateway, agent, body, **kwargs) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def until_answers(self, gateway: Gateway, agent: Agent, status: int = 200) -> Any:
        """Invoke until the answer has this status; return its body."""
        body: Any = None

        async def answers() -> bool:
            nonlocal body
            got, body = await self.invoke(gateway, agent)
            return got == status

        await eventually(answers, f"the answer {status}")
        return body

    async def facts(self, agent: Agent) -> list[InvocationFinished]:
        """Everything on USAGE about this agent, in order."""
        envelopes = await self.envelopes(agent)
        return [wire.decode(bytes(e.data), InvocationFinished) for e in envelopes]

    async def envelopes(self, agent: Agent) -> list[Envelope]:
        return [e for e in await self.packed(agent) if agent.agent_id.encode() in bytes(e.data)]

    async def packed(self, agent: Agent) -> list[Envelope]:
        """Everything in the gateways' packets of this user's partition, in order."""
        partition = subjects.partition_of(agent.user_id)
        subject = subjects.usage_packets(partition, subjects.GATEWAY)
        info = await self.bus.js.stream_info(subjects.USAGE, subjects_filter=subject)
        found: list[Envelope] = []
        sequence = 1
        for _ in range((info.state.subjects or {}).get(subject, 0)):
            message = await self.bus.js.get_msg(
                subjects.USAGE, sequence, subject=subject, next=True, direct=True
            )
            assert (message.headers or {})[subjects.TYPE_HEADER] == PACKET
            found += wire.decode(message.data or b"", list[Envelope])
            sequence = (message.seq or 0) + 1
        return found

    async def until_facts(self, agent: Agent, number: int) -> list[InvocationFinished]:
        async def there() -> bool:
            return len(await self.envelopes(agent)) >= number

        await eventually(there, f"{number} facts", seconds=15)
        return await self.facts(agent)
