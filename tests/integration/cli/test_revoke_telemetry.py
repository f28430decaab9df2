"""Revoking a telemetry key while the deployer starts again, and one of no deployment."""

import asyncio
import os
import subprocess
import sys

import nats
import pytest
from nats.aio.msg import Msg
from webhost_cli import telemetry_keys
from webhost_cli.errors import CommandError
from webhost_contracts import subjects, wire
from webhost_contracts.rpc import RevokeTelemetryKeyReply, RevokeTelemetryKeyRequest


def revoke(url: str, deployment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "webhost_cli", "keys", "revoke-telemetry", deployment],
        env={**os.environ, "NATS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_deployer_that_starts_again_is_waited_for(nats_account: str) -> None:
    client = await nats.connect(nats_account)
    asked = 0

    async def reply(message: Msg) -> None:
        nonlocal asked
        asked += 1
        request = wire.decode(message.data, RevokeTelemetryKeyRequest)
        if request.deployment_id == "dep_2":
            await message.respond(wire.encode(RevokeTelemetryKeyReply(refused="there is none")))
            return
        revoked = request.generation == 1
        answer = RevokeTelemetryKeyReply(generation=1, revoked=revoked, front_has_next=revoked)
        await message.respond(wire.encode(answer))

    command = revoke(nats_account, "dep_1")
    try:
        assert command.stderr is not None
        said = await asyncio.to_thread(command.stderr.readline)
        assert said.startswith("the deployer does not answer")
        await client.subscribe(subjects.RPC_REVOKE_TELEMETRY_KEY, cb=reply)
        out, err = await asyncio.to_thread(command.communicate, timeout=20)
        assert command.returncode == 0, err
        assert out == "generation 1 of dep_1's telemetry key is revoked\n"
        assert asked == 2

        unknown = revoke(nats_account, "dep_2")
        _, err = await asyncio.to_thread(unknown.communicate, timeout=20)
        assert (unknown.returncode, err) == (4, "webhost: dep_2: there is none\n")
    finally:
        command.kill()
        await client.close()


async def test_what_may_have_been_noted_is_not_asked_for_anew(
    nats_account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_account)
    monkeypatch.setattr(telemetry_keys, "_TIMEOUT_S", 0.3)
    client = await nats.connect(nats_account)
    asked = 0

    async def notice(_: Msg) -> None:
        nonlocal asked
        asked += 1

    await client.subscribe(subjects.RPC_REVOKE_TELEMETRY_KEY, cb=notice)
    await client.flush()
    with pytest.raises(CommandError, match="has not answered"):
        await asyncio.to_thread(telemetry_keys.revoke_telemetry, "dep_1")
    assert asked == 1
    await client.close()
