"""A real telemetry-ingest process, with a deployment that may report."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from webhost_contracts import ids, signatures, subjects, wire
from webhost_contracts.events import Envelope, TelemetryAccepted
from webhost_contracts.events.packets import PACKET
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import MasterKeys, base64url

from tests.support.deadline import eventually
from tests.support.facts import deployment_started
from tests.support.harness import Harness, running
from tests.support.infra import Nats
from tests.support.reports import report_of

MASTER = secrets.token_bytes(32)
KEYS = MasterKeys({1: MASTER})


@dataclass
class Deployment:
    """Somebody's deployment, and the key that its Worker signs with."""

    user_id: str = field(default_factory=lambda: ids.user_id("test", secrets.token_hex(8)))
    agent_id: str = field(default_factory=lambda: new_id(ids.AGENT, now_ms()))
    deployment_id: str = field(default_factory=lambda: new_id(ids.DEPLOYMENT, now_ms()))

    @property
    def key(self) -> bytes:
        key = KEYS.telemetry_key(1, self.deployment_id, 1)
        assert key is not None
        return key

    def report(self, **changes: Any) -> bytes:
        return report_of(self.user_id, self.agent_id, self.deployment_id, **changes)


@dataclass(kw_only=True)
class Ingest(Harness):
    """The ingest process, what it receives and what it publishes."""

    def __post_init__(self) -> None:
        keys = f"1:{base64url(MASTER)}"
        self.service = self.process("webhost_telemetry_ingest", TELEMETRY_MASTER_KEYS=keys)

    async def begun(self, deployment: Deployment) -> None:
        """State that the deployment's work began."""
        fact = deployment_started(deployment.agent_id)
        await self.given(deployment.user_id, deployment.deployment_id, fact)

    async def post(
        self,
        deployment: Deployment,
        body: bytes,
        *,
        key: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Post a signed body; return status, decoded answer and headers in lower case."""
        signed = {
            signatures.TELEMETRY_DEPLOYMENT_HEADER: deployment.deployment_id,
            signatures.TELEMETRY_SIGNATURE_HEADER: signatures.telemetry_signature(
                key or deployment.key, body
            ),
        }
        url = f"{self.service.url}/v1/telemetry/report"
        async with self.http.post(url, data=body, headers=signed | (headers or {})) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, msgspec.json.decode(await answer.read()), found

    async def accepted(self) -> list[tuple[str, Envelope, TelemetryAccepted]]:
        """Everything on USAGE, in order: subject, envelope, fact."""
        info = await self.bus.js.stream_info(subjects.USAGE)
        found: list[tuple[str, Envelope, TelemetryAccepted]] = []
        for sequence in range(1, info.state.last_seq + 1):
            message = await self.bus.js.get_msg(subjects.USAGE, sequence, direct=True)
            assert (message.headers or {})[subjects.TYPE_HEADER] == PACKET
            for stored in wire.decode(message.data or b"", list[Envelope]):
                fact = wire.decode(bytes(stored.data), TelemetryAccepted)
                found.append((str(message.subject), stored, fact))
        return found


@pytest.fixture
async def ingest(database_url: str, nats_account: str) -> AsyncIterator[Ingest]:
    async with running(Ingest, database_url, nats_account) as harness:
        await harness.service.start()
        yield harness


@pytest.fixture
async def deployment(ingest: Ingest) -> Deployment:
    """A deployment that ingest knows."""
    deployment = Deployment()
    await ingest.begun(deployment)
    await until_known(ingest, deployment)
    return deployment


async def until_known(ingest: Ingest, deployment: Deployment) -> None:
    """Return when ingest knows the deployment: it finds a report too old, not unknown."""

    async def known() -> bool:
        return (await ingest.post(deployment, deployment.report(timestampMs=1)))[0] == 400

    await eventually(known, "the deployment to be known")


@pytest.fixture
def nats(nats_server: Nats) -> Nats:
    """The server, to be killed and started again."""
    return nats_server
