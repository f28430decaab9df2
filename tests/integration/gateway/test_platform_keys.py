"""The gateway takes up the key that it signs with, and names a deployment's next telemetry key."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from webhost_contracts import maintenance
from webhost_contracts.events import DeploymentTelemetryKeyRevoked
from webhost_contracts.maintenance import KeysReply, Nothing
from webhost_kit.bus import rpc
from webhost_kit.keys import base64url

from tests.integration.gateway.harness import Harness
from tests.support.deadline import eventually


@pytest.mark.accept("7.rotation.taken-up")
async def test_calls_are_signed_with_the_key_of_the_file(own_harness: Harness) -> None:
    harness, new = own_harness, Ed25519PrivateKey.generate()
    keys = harness.directory / "keys"

    def write(key_id: str, key: Ed25519PrivateKey) -> None:
        beside = keys.with_name("beside")
        beside.write_text(f"INVOKE_PRIVATE_KEYS={key_id}:{base64url(key.private_bytes_raw())}\n")
        beside.replace(keys)

    write("k1", harness.key)
    gateway = await harness.start(KEYS_FILE=str(keys), INVOKE_PRIVATE_KEYS="unused")
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    revoked = DeploymentTelemetryKeyRevoked(
        agent_id=agent.agent_id, key_version=2, key_generation=7, operator="ops"
    )
    await harness.tell(agent, revoked)
    write("k2", new)
    harness.worker.public_key = new.public_key()

    async def taken_up() -> bool:
        subject = maintenance.subject("gateway", maintenance.KEYS)
        return (await rpc.call(harness.bus, subject, Nothing(), KeysReply)).keys == {
            "INVOKE_PRIVATE_KEYS": ("k2",)
        }

    await eventually(taken_up, "the new key")

    async def names_the_next() -> bool:
        assert (await harness.invoke(gateway, agent))[0] == 200
        named = harness.worker.calls[-1].body["deployment"]
        return (named["keyVersion"], named["keyGeneration"]) == (2, 7)

    await eventually(names_the_next, "the next telemetry key")
