"""The platform's keys change: fronts get the new ones, secrets the new seal; a key is revoked.

A real deployer and real Workers; the test is the operator who sets the keys.
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from webhost_contracts import maintenance, subjects
from webhost_contracts.events import (
    DeploymentFrontUpdated,
    DeploymentSucceeded,
    DeploymentTelemetryKeyRevoked,
)
from webhost_contracts.maintenance import KeysReply, Nothing
from webhost_contracts.rpc import RevokeTelemetryKeyReply, RevokeTelemetryKeyRequest
from webhost_contracts.signatures import TELEMETRY_SIGNATURE_HEADER, telemetry_signature_matches
from webhost_deployer.crash_points import RESEAL, Moment, fact_point, point
from webhost_kit.bus import rpc
from webhost_kit.errors import Unavailable
from webhost_kit.keys import MasterKeys, base64url, parse_signers, public_keys

from tests.integration.deployer.conftest import REPORTS_PORT
from tests.integration.deployer.harness import Harness, new_agent
from tests.integration.deployer.test_secrets import TELLS, set_secrets, until_told
from tests.support.deadline import eventually
from tests.support.service import ServiceProcess
from tests.support.serving import serving

IN_FORCE_S = 40


def new_seed() -> str:
    return base64url(secrets.token_bytes(32))


async def live(harness: Harness, agent: str, code: str | None = None) -> tuple[str, str]:
    deployment = await harness.deploy(agent, *([] if code is None else [code]))
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    return deployment, event.invoke_url


async def said(harness: Harness) -> KeysReply | None:
    """What the deployer says of its keys; None while it does not."""
    subject = maintenance.subject("deployer", maintenance.KEYS)
    try:
        return await rpc.call(harness.bus, subject, Nothing(), KeysReply)
    except Unavailable:
        return None


async def until_brought(harness: Harness, name: str, *ids: str) -> KeysReply:
    """Return when the deployer holds these keys, nothing lags, and no secret has another seal."""
    found: list[KeysReply] = []

    async def brought() -> bool:
        reply = await said(harness)
        if reply is None or reply.keys[name] != ids or reply.lagging != 0:
            return False
        found.append(reply)
        first = reply.keys["SECRETS_PRIVATE_KEYS"][0]
        return not {*(reply.sealed or {})} - {first}

    await eventually(brought, f"{name} {ids} to be everywhere", seconds=IN_FORCE_S)
    return found[-1]


async def restarted(harness: Harness, deployer: ServiceProcess) -> ServiceProcess:
    """A deployer with the environment of now, in place of this one."""
    await deployer.kill()
    return await harness.start()


def without_first(setting: str) -> str:
    return setting.partition(",")[2]


@pytest.mark.accept("7.rotation.fronts")
@pytest.mark.parametrize(
    "namespace",
    [
        pytest.param(None, id="account"),
        pytest.param("customers", id="namespace", marks=pytest.mark.long),
    ],
    indirect=True,
)
async def test_fronts_get_new_public_keys_and_lose_old_ones(harness: Harness) -> None:
    deployer = await harness.start()
    agents = [new_agent() for _ in range(3)]
    answering = [await live(harness, agent) for agent in agents]
    assert await until_brought(harness, "INVOKE_PUBLIC_KEYS", "i1")

    [old], [new] = [harness.invoke_key], parse_signers(f"i2:{new_seed()}", "test")
    [(key_id, public)] = public_keys((new,)).items()
    harness.env["INVOKE_PUBLIC_KEYS"] += f",{key_id}:{public}"
    harness.env["PLATFORM_PRIVATE_KEYS"] += f",p2:{new_seed()}"
    if harness.namespace is None:
        harness.crash_at(fact_point(DeploymentFrontUpdated, Moment.RECORDING))
    deployer = await restarted(harness, deployer)
    if harness.namespace is None:
        await deployer.died()
        deployer = await harness.start()
    await until_brought(harness, "INVOKE_PUBLIC_KEYS", "i1", "i2")
    for signer in (old, new):
        harness.invoke_key = signer
        for deployment, url in answering:
            assert (await harness.invoke(url, deployment, "you")).status_code == 200

    harness.env["INVOKE_PUBLIC_KEYS"] = without_first(harness.env["INVOKE_PUBLIC_KEYS"])
    harness.env["PLATFORM_PRIVATE_KEYS"] = without_first(harness.env["PLATFORM_PRIVATE_KEYS"])
    await restarted(harness, deployer)
    await until_brought(harness, "PLATFORM_PRIVATE_KEYS", "p2")
    for signer, status in ((old, 401), (new, 200)):
        harness.invoke_key = signer
        for deployment, url in answering:
            assert (await harness.invoke(url, deployment, "you")).status_code == status
    # The session Worker knows the new key: it takes the deployer's word to purge.
    for agent in agents:
        await harness.delete(agent)
    await harness.until_quiet()
    assert await harness.scripts() == []


@pytest.mark.accept("7.rotation.resealed")
@pytest.mark.long
async def test_secrets_are_sealed_again_and_the_old_key_can_go(harness: Harness) -> None:
    deployer = await harness.start()
    await deployer.until_ready()
    agent = new_agent()
    names = {f"KEY_{number}": f"value {number}" for number in range(130)}
    for number in (0, 50, 100):
        chosen = dict([*names.items()][number : number + 50])
        assert (await set_secrets(harness, agent, **chosen)).version
    old = harness.env["SECRETS_PRIVATE_KEYS"]
    # The second batch of the first: what came before is done, the rest is found again.
    harness.env["SECRETS_PRIVATE_KEYS"] = f"s2:{new_seed()},{old}"
    harness.crash_at(point(RESEAL, Moment.RECORDED))
    deployer = await restarted(harness, deployer)
    await deployer.died()
    sealed = "SELECT count(*) FROM secrets WHERE sealed LIKE 's2:%'"
    assert 0 < await harness.scalar(sealed) < len(names)
    harness.crash_at(point(RESEAL, Moment.RECORDING))
    deployer = await harness.start()
    await deployer.died()
    deployer = await harness.start()
    reply = await until_brought(harness, "SECRETS_PRIVATE_KEYS", "s2", "s1")
    assert reply.sealed == {"s2": len(names)}
    # Whoever still seals for the old key is not lost either.
    await deployer.until_ready()
    await set_secrets(harness, agent, LATE="late")
    await until_brought(harness, "SECRETS_PRIVATE_KEYS", "s2", "s1")

    harness.env["SECRETS_PRIVATE_KEYS"] = harness.env["SECRETS_PRIVATE_KEYS"].removesuffix(
        f",{old}"
    )
    await restarted(harness, deployer)
    tells = TELLS.replace("env)", "[Object.keys(env).length, env.KEY_77, env.LATE])")
    deployment, url = await live(harness, agent, tells)
    await until_told(harness, url, deployment, '[131,"value 77","late"]')


@asynccontextmanager
async def reports_of(harness: Harness) -> AsyncGenerator[list[tuple[bytes, bytes]]]:
    """What Workers report: bodies and signatures."""
    reports: list[tuple[bytes, bytes]] = []

    async def ingest(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        signature = request.headers[TELEMETRY_SIGNATURE_HEADER].encode()
        reports.append((await request.body(), signature))
        await Response(status_code=202)(scope, receive, send)

    async with serving(ingest, REPORTS_PORT) as url:
        harness.env["CONTROL_PLANE_TELEMETRY_REPORT_URL"] = f"{url}/v1/telemetry/report"
        yield reports


async def revoke(harness: Harness, deployment: str) -> RevokeTelemetryKeyReply:
    """Ask until it is done, as the command does, whoever dies meanwhile."""
    request = RevokeTelemetryKeyRequest(deployment_id=deployment, operator="ops", generation=1)
    subject, reply = subjects.RPC_REVOKE_TELEMETRY_KEY, RevokeTelemetryKeyReply()

    async def done() -> bool:
        nonlocal reply
        try:
            reply = await rpc.call(harness.bus, subject, request, RevokeTelemetryKeyReply)
        except Unavailable:
            return False
        return reply.front_has_next

    await eventually(done, "the revocation", seconds=IN_FORCE_S)
    return reply


@pytest.mark.accept("7.rotation.revoked")
async def test_a_revoked_deployments_front_signs_with_its_next_key(harness: Harness) -> None:
    async with reports_of(harness) as reports:
        deployer = await harness.start()
        deployment, url = await live(harness, new_agent())
        harness.crash_at(fact_point(DeploymentTelemetryKeyRevoked, Moment.RECORDING))
        request = RevokeTelemetryKeyRequest(deployment_id=deployment, operator="ops")
        subject = subjects.RPC_REVOKE_TELEMETRY_KEY
        reply = await rpc.call(harness.bus, subject, request, RevokeTelemetryKeyReply)
        assert (reply.generation, reply.revoked) == (1, False)
        await deployer.died()
        await harness.start()
        assert (await revoke(harness, deployment)).revoked
        assert (await harness.invoke(url, deployment, "you")).status_code == 200

        async def reported() -> bool:
            return bool(reports)

        await eventually(reported, "the Worker's report")
    body, signature = reports[-1]
    keys = MasterKeys.parse(harness.env["TELEMETRY_MASTER_KEYS"])
    next_key, first_key = (keys.telemetry_key(2, deployment, number) for number in (2, 1))
    assert next_key is not None
    assert telemetry_signature_matches(next_key, body, signature)
    assert first_key is not None
    assert not telemetry_signature_matches(first_key, body, signature)
    stated = [
        it for it in harness.stated(deployment) if isinstance(it, DeploymentTelemetryKeyRevoked)
    ]
    assert [(it.key_version, it.key_generation, it.operator) for it in stated] == [(2, 2, "ops")]


@pytest.mark.long
@pytest.mark.accept("7.rotation.revoked")
async def test_a_key_is_revoked_though_its_front_cannot_be_reached(harness: Harness) -> None:
    deployer = await harness.start()
    deployment, _ = await live(harness, new_agent())
    there = harness.env["CLOUDFLARE_API_BASE_URL"]
    harness.env["CLOUDFLARE_API_BASE_URL"] = "http://127.0.0.1:9/client/v4"
    deployer = await restarted(harness, deployer)
    request = RevokeTelemetryKeyRequest(deployment_id=deployment, operator="ops", generation=1)
    reply = RevokeTelemetryKeyReply()

    async def revoked() -> bool:
        nonlocal reply
        subject = subjects.RPC_REVOKE_TELEMETRY_KEY
        try:
            reply = await rpc.call(harness.bus, subject, request, RevokeTelemetryKeyReply)
        except Unavailable:
            return False
        return reply.revoked

    await eventually(revoked, "the revocation", seconds=IN_FORCE_S)
    assert not reply.front_has_next
    harness.env["CLOUDFLARE_API_BASE_URL"] = there
    await restarted(harness, deployer)
    assert (await revoke(harness, deployment)).front_has_next
    await harness.until_stated(deployment, lambda event: isinstance(event, DeploymentFrontUpdated))
    kinds = [type(it) for it in harness.stated(deployment)]
    assert kinds[-2:] == [DeploymentTelemetryKeyRevoked, DeploymentFrontUpdated]
