"""From a command to an agent that answers, and back to nothing."""

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response
from webhost_api import templates
from webhost_contracts.artifacts import Artifact
from webhost_contracts.commands import DEPLOY
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_contracts.signatures import (
    TELEMETRY_SIGNATURE_HEADER,
    telemetry_signature_matches,
)
from webhost_deployer.cloudflare.addresses import agent_script_name, front_name
from webhost_kit.clock import now_ms
from webhost_kit.keys import MasterKeys

from tests.integration.deployer.api_gate import gated
from tests.integration.deployer.conftest import REPORTS_PORT, on_both_layouts
from tests.integration.deployer.harness import Harness, new_agent, put_script
from tests.support.deadline import eventually
from tests.support.serving import serving

STEPS = ["validate", "session_store", "upload", "route", "probe", "secrets"]
BROKEN = "export default { async invoke( { return 1; } };"
THROWS = 'throw new Error("not today");\nexport default { async invoke() { return ""; } };'
NOT_AN_AGENT = "export default { hello: 1 };"


@on_both_layouts
async def test_the_template_is_deployed_behind_the_custom_domain(harness: Harness) -> None:
    await harness.start()
    agent = new_agent()
    deployment = await harness.deploy(agent, templates.load(templates.DEFAULT))
    event = await harness.until_stated(deployment)

    assert isinstance(event, DeploymentSucceeded), event
    assert event.invoke_url == f"https://{harness.host}/dep/{deployment}/invoke"
    stated = harness.stated(deployment)
    assert isinstance(stated[0], DeploymentStarted)
    assert (stated[0].key_version, stated[0].key_generation) == (2, 1)
    assert [e.step for e in stated if isinstance(e, DeploymentStepSucceeded)] == STEPS
    assert await harness.scripts() == [event.worker_name]
    own = "" if harness.namespace else f"{deployment}/"
    assert await harness.routes() == [f"{harness.host}/dep/{own}*"]

    first = await harness.invoke(event.invoke_url, deployment, "hi")
    assert first.json()["output"] == {"text": "You said: hi"}
    session = first.json()["sessionId"]
    second = await harness.invoke(event.invoke_url, deployment, "hi", sessionId=session)
    assert second.json()["output"] == {"text": "You said: hi (turn 2)"}


@on_both_layouts
async def test_the_worker_reports_with_its_deployments_own_key(harness: Harness) -> None:
    reports: list[tuple[bytes, bytes]] = []

    async def ingest(scope, receive, send):
        request = Request(scope, receive)
        signature = request.headers[TELEMETRY_SIGNATURE_HEADER].encode()
        reports.append((await request.body(), signature))
        await Response(status_code=202)(scope, receive, send)

    async with serving(ingest, REPORTS_PORT) as url:
        harness.env["CONTROL_PLANE_TELEMETRY_REPORT_URL"] = f"{url}/v1/telemetry/report"
        await harness.start()
        agent = new_agent()
        deployment = await harness.deploy(agent)
        event = await harness.until_stated(deployment)
        assert isinstance(event, DeploymentSucceeded), event
        assert (await harness.invoke(event.invoke_url, deployment, "you")).status_code == 200

        async def reported() -> bool:
            return bool(reports)

        await eventually(reported, "the Worker's report")
    ((body, signature),) = reports
    keys = MasterKeys.parse(harness.env["TELEMETRY_MASTER_KEYS"])
    key = keys.telemetry_key(2, deployment, 1)
    assert key is not None
    assert telemetry_signature_matches(key, body, signature)
    said = msgspec.json.decode(body)
    assert (said["userId"], said["agentId"]) == (harness.user_id, agent)


async def test_an_agent_on_workers_dev(harness: Harness) -> None:
    del harness.env["CLOUDFLARE_ZONE_ID"], harness.env["CLOUDFLARE_WORKERS_CUSTOM_DOMAIN"]
    harness.env["CLOUDFLARE_WORKERS_DEV_SUBDOMAIN"] = harness.edge.subdomain
    await harness.start()
    agent = new_agent()
    deployment = await harness.deploy(agent)
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    host = f"{event.worker_name}.{harness.edge.subdomain}.workers.dev"
    assert event.invoke_url == f"https://{host}/invoke"
    answer = await harness.invoke(event.invoke_url, deployment, "you")
    assert answer.json()["output"] == {"text": "hello you"}

    await harness.delete(agent)
    await harness.until_quiet()
    assert await harness.scripts() == []
    assert await harness.phases() == {"torn_down"}


@pytest.mark.parametrize("code", [BROKEN, THROWS], ids=["broken", "throws"])
@pytest.mark.accept("10")
async def test_a_broken_module_fails_at_upload_and_leaves_nothing(
    harness: Harness, code: str
) -> None:
    deployer = await harness.start()
    deployment = await harness.deploy(new_agent(), code)
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "upload"
    assert (event.error.endpoint or "").startswith("PUT /workers/scripts/whs-")
    assert event.error.provider_code == "10021"
    assert "Error" in (event.error.provider_message or "")
    given_up = "webhost_deployer_deployments_given_up_total"
    assert await deployer.counted(given_up, fault="others") == 1
    assert await deployer.counted(given_up, fault="ours") == 0
    assert await harness.scripts() == []
    assert await harness.routes() == []


@on_both_layouts
async def test_a_module_that_is_no_agent_fails_at_the_probe(harness: Harness) -> None:
    await harness.start()
    deployment = await harness.deploy(new_agent(), NOT_AN_AGENT)
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "probe"
    assert "neither invoke() nor fetch()" in (event.error.provider_message or "")
    assert await harness.scripts() == []
    assert await harness.routes() == ([f"{harness.host}/dep/*"] if harness.namespace else [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime_provider": "agentcore"}, "agentcore is not supported"),
        ({"main_module_name": "other.mjs"}, "other.mjs is not in the bundle"),
        (
            {"artifact": Artifact(type="modules", checksum="sha256:" + "0" * 64, size_bytes=1)},
            "not in the store",
        ),
    ],
)
async def test_what_can_not_be_deployed_fails_validation(
    harness: Harness, changes: dict[str, object], message: str
) -> None:
    await harness.start()
    deployment = await harness.deploy(new_agent(), **changes)
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "validate"
    assert message in event.error.message
    assert await harness.scripts() == []


async def test_a_command_that_comes_twice_deploys_once(harness: Harness) -> None:
    agent = new_agent()
    deployment = await harness.deploy(agent)
    message = await harness.bus.js.get_last_msg("COMMANDS", f"cmd.deployer.{DEPLOY}.{agent}")
    assert message.data is not None
    await harness.bus.js.publish(f"cmd.deployer.{DEPLOY}.{agent}", message.data)
    await harness.start()
    await harness.until_stated(deployment)
    await harness.until_quiet()
    assert len(harness.stated(deployment)) == 8
    assert len(await harness.scripts()) == 1


async def test_a_deployment_waits_for_an_edge_that_is_away(harness: Harness) -> None:
    async with gated(harness) as gate:
        gate.open = False
        await harness.start()
        deployment = await harness.deploy(new_agent())

        def failed_twice(event: object) -> bool:
            return isinstance(event, DeploymentStepFailed) and event.attempt == 2

        retried = await harness.until_stated(deployment, failed_twice)
        assert isinstance(retried, DeploymentStepFailed)
        assert retried.retry_at_ms is not None
        assert retried.error.step == "session_store"
        gate.open = True
        event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    assert gate.refused >= 2


@pytest.mark.accept("8.purge")
@on_both_layouts
async def test_deleting_an_agent_removes_all_of_it_and_its_sessions(harness: Harness) -> None:
    await harness.start()
    agent, other = new_agent(), new_agent()
    first, second = await harness.deploy(agent), await harness.deploy(agent)
    kept = await harness.deploy(other)
    for deployment in (first, second, kept):
        assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
    peer = await session_peer(harness, agent)
    opened = await peer("open", {})
    assert opened.status_code == 200
    session = opened.json()["sessionId"]

    await harness.delete(agent)
    await harness.until_quiet()
    for deployment in (first, second):
        assert isinstance(harness.stated(deployment)[-1], DeploymentTornDown)
    own = "" if harness.namespace else f"{kept}/"
    assert await harness.routes() == [f"{harness.host}/dep/{own}*"]
    assert len(await harness.scripts()) == 1
    assert (await peer("history", {"sessionId": session})).status_code == 410
    assert (await peer("open", {})).status_code == 410

    late = await harness.deploy(agent)
    event = await harness.until_stated(late)
    assert isinstance(event, DeploymentFailed)
    assert event.error.message == "The agent was deleted."


@pytest.mark.accept("8.deletion")
async def test_a_deletion_stops_a_deployment_that_is_under_way(harness: Harness) -> None:
    async with gated(harness) as gate:
        gate.open = False
        await harness.start()
        agent = new_agent()
        deployment = await harness.deploy(agent)
        await harness.until_stated(deployment, lambda e: isinstance(e, DeploymentStepFailed))
        await harness.delete(agent)
        event = await harness.until_stated(deployment)
        assert isinstance(event, DeploymentFailed)
        assert event.error.message == "The agent was deleted."
        gate.open = True
        await harness.until_quiet()
    assert await harness.scripts() == []


async def test_a_retired_deployment_is_torn_down_when_its_time_has_come(harness: Harness) -> None:
    await harness.start()
    agent = new_agent()
    retired, active = await harness.deploy(agent), await harness.deploy(agent)
    event = await harness.until_stated(retired)
    assert isinstance(event, DeploymentSucceeded)
    await harness.until_stated(active)
    not_before = now_ms() + 2_000
    await harness.tear_down(agent, retired, not_before)
    await harness.until_stated(retired, lambda e: isinstance(e, DeploymentTornDown))
    assert now_ms() >= not_before
    assert await harness.routes() == [f"{harness.host}/dep/{active}/*"]
    assert (await harness.get(event.invoke_url)).status_code == 404


@pytest.mark.accept("4.ownership")
async def test_what_others_have_is_never_touched(harness: Harness) -> None:
    agent = new_agent()
    deployment = await harness.deploy(agent)
    name = f"whs-{agent.removeprefix('agt_')}-{deployment.removeprefix('dep_')}"
    strange = f"{harness.host}/dep/{deployment}/strange/*"
    # Somebody else's script, by chance of the very name; somebody else's route.
    await put_script(harness, f"owner-{name}"[:63], tags=["of-the-owner"])
    await harness.api(
        "POST",
        f"/zones/{harness.edge.zone_id}/workers/routes",
        json={"pattern": strange, "script": f"owner-{name}"[:63]},
    )
    await harness.start()
    assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
    await harness.delete(agent)
    await harness.until_quiet()
    assert await harness.routes() == [strange]
    found = await harness.api("GET", f"/accounts/{harness.edge.account_id}/workers/scripts")
    assert f"owner-{name}"[:63] in [script["id"] for script in found]


@pytest.mark.accept("4.ownership")
@on_both_layouts
async def test_a_script_of_our_name_with_anothers_tag_is_not_deleted(harness: Harness) -> None:
    await harness.start()
    agent = new_agent()
    deployment = await harness.deploy(agent)
    assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
    names = {agent_script_name(agent, deployment)}
    if harness.namespace is None:
        names.add(front_name(agent, deployment))
    for name in names:
        await put_script(harness, name, harness.namespace, tags=["installation-another"])
    await harness.delete(agent)
    await harness.until_quiet()
    assert names <= set(await harness.listed(harness.scripts_path(harness.namespace), tag=None))


async def test_several_deployers_share_the_work_and_one_session_worker(harness: Harness) -> None:
    deployments = [await harness.deploy(new_agent()) for _ in range(4)]
    await harness.start()
    await harness.start()
    for deployment in deployments:
        assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
    await harness.until_quiet()
    for deployment in deployments:
        assert not any(isinstance(e, DeploymentStepFailed) for e in harness.stated(deployment))
    assert len(await harness.session_workers()) == 1
    assert len(await harness.scripts()) == 4


async def session_peer(harness: Harness, agent: str):
    """A script of the test's own that may do with the session store what this agent may."""
    (store,) = await harness.session_workers()
    name = f"peer-{agent.removeprefix('agt_')}"
    binding = {"type": "service", "name": "S", "service": store, "props": {"agentId": agent}}
    await put_script(harness, name, bindings=[binding])
    await harness.api(
        "POST",
        f"/accounts/{harness.edge.account_id}/workers/scripts/{name}/subdomain",
        json={"enabled": True},
    )

    async def ask(operation: str, body: dict[str, object]) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.post(
                f"{harness.edge.origin}/v1/{operation}",
                json=body,
                headers={"Host": f"{name}.{harness.edge.subdomain}.workers.dev"},
            )

    return ask
