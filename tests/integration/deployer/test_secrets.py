"""Secrets of a real deployer's, on real Workers, in both layouts."""

import secrets
import signal
from typing import Any

import pytest
from webhost_contracts import ids, subjects
from webhost_contracts.events import (
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentSucceeded,
    SecretDeleted,
    SecretSet,
)
from webhost_contracts.rpc import (
    ChangeSecretsReply,
    DeleteSecretsRequest,
    SecretsReply,
    SecretsRequest,
    SetSecretsRequest,
)
from webhost_deployer.crash_points import Moment, fact_point
from webhost_kit.bus import rpc
from webhost_kit.errors import Unavailable
from webhost_kit.keys import base64url
from webhost_kit.sealing import Owner, Sealer, public_half

from tests.integration.deployer.conftest import on_both_layouts
from tests.integration.deployer.harness import Harness, new_agent
from tests.support.deadline import eventually
from tests.support.facts import on_stream

TELLS = "export default { async invoke(_, { env }) { return JSON.stringify(env); } };"
APPLIED_S = 20


def common(harness: Harness, agent_id: str) -> dict[str, Any]:
    return {"user_id": harness.user_id, "agent_id": agent_id, "actor": f"user:{harness.user_id}"}


async def set_secrets(
    harness: Harness, agent_id: str, operation: str | None = None, **values: str
) -> ChangeSecretsReply:
    sealer = Sealer.parse(f"s1:{base64url(public_half(harness.secrets_key))}", "PUBLIC")
    owners = {name: Owner(harness.user_id, agent_id, name) for name in values}
    sealed = {name: sealer.seal(value, owners[name]) for name, value in values.items()}
    request = SetSecretsRequest(
        **common(harness, agent_id), sealed=sealed, operation=operation or secrets.token_hex(8)
    )
    return await rpc.call(harness.bus, subjects.RPC_SET_SECRETS, request, ChangeSecretsReply)


async def delete_secrets(harness: Harness, agent_id: str, *names: str) -> ChangeSecretsReply:
    request = DeleteSecretsRequest(**common(harness, agent_id), keys=names)
    return await rpc.call(harness.bus, subjects.RPC_DELETE_SECRETS, request, ChangeSecretsReply)


async def remove_scripts(harness: Harness, deployment: str) -> None:
    """Remove a deployment's scripts, as somebody might by hand."""
    path = harness.scripts_path(harness.namespace)
    for name in await harness.listed(path):
        if ids.suffix(deployment) in name:
            await harness.api("DELETE", f"{path}/{name}", params={"force": "true"})


async def until_told(harness: Harness, url: str, deployment: str, told: str) -> None:
    async def holds() -> bool:
        answer = await harness.invoke(url, deployment, "What is it?")
        assert "output" in answer.json(), (answer.status_code, answer.text)
        return answer.json()["output"] == {"text": told}

    await eventually(holds, f"the Worker to say {told}", seconds=APPLIED_S)


@pytest.mark.accept("7.3.reaches")
@on_both_layouts
async def test_secrets_are_bound_changed_and_removed(harness: Harness) -> None:
    deployer = await harness.start()
    await deployer.until_ready()
    agent = new_agent()
    assert (await set_secrets(harness, agent, KEY="one", OTHER="o")).version == 1
    deployment = await harness.deploy(agent, TELLS)
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    assert event.secrets_version == 1
    await until_told(harness, event.invoke_url, deployment, '{"KEY":"one","OTHER":"o"}')

    harness.crash_at(fact_point(DeploymentSecretsApplied, Moment.RECORDING))
    assert (await set_secrets(harness, agent, OTHER="p")).version == 2
    await deployer.died()
    await deployer.start()
    assert (await delete_secrets(harness, agent, "KEY", "OTHER")).version == 3
    await until_told(harness, event.invoke_url, deployment, "{}")
    await harness.until_quiet()
    listing = SecretsRequest(user_id=harness.user_id, agent_id=agent)
    listed = await rpc.call(harness.bus, subjects.RPC_SECRETS, listing, SecretsReply)
    assert listed == SecretsReply(version=3, set_at_ms={})

    await remove_scripts(harness, deployment)
    await set_secrets(harness, agent, KEY="too late")
    lost = await harness.until_stated(deployment, lambda e: isinstance(e, DeploymentScriptLost))
    assert lost == DeploymentScriptLost(agent_id=agent)
    await harness.until_quiet()
    assert await harness.scalar("SELECT count(*) FROM secret_updates") == 0

    applied = [e for e in harness.stated(deployment) if isinstance(e, DeploymentSecretsApplied)]
    assert applied[-1].secrets_version == 3
    subject = subjects.event(harness.user_id, "secret", agent)
    kinds = {kind.type_name(): kind for kind in (SecretSet, SecretDeleted)}
    facts = await on_stream(harness.bus, subjects.EVENTS, subject, kinds)
    assert [(envelope.version, fact) for envelope, fact in facts] == [
        (1, SecretSet(agent_id=agent, keys=("KEY", "OTHER"))),
        (2, SecretSet(agent_id=agent, keys=("OTHER",))),
        (3, SecretDeleted(agent_id=agent, keys=("KEY", "OTHER"))),
        (4, SecretSet(agent_id=agent, keys=("KEY",))),
    ]
    assert {envelope.aggregate_id for envelope, _ in facts} == {ids.secrets_of(agent)}


@pytest.mark.accept("7.3.late")
async def test_what_a_frozen_deployer_was_asked_is_not_done_when_it_goes_on(
    harness: Harness,
) -> None:
    deployer = await harness.start()
    await deployer.until_ready()
    agent = new_agent()
    deployer.send_signal(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await set_secrets(harness, agent, KEY="old")
    deployer.send_signal(signal.SIGCONT)

    async def dropped() -> bool:
        return harness.logged("request not answered") == 1

    await eventually(dropped, "the old request to be dropped")
    assert (await set_secrets(harness, agent, KEY="new")).version == 1
