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
from webhost_kit.clock import now_ms
from webhost_kit.keys import MasterKeys

from tests.integration.deployer.api_gate import gated
from tests.integration.deployer.harness import House, new_agent
from tests.support.deadline import eventually
from tests.support.serving import serving

STEPS = ["validate", "session_store", "upload", "route", "probe"]
BROKEN = "export default { async invoke( { return 1; } };"
THROWS = 'throw new Error("not today");\nexport default { async invoke() { return ""; } };'
NOT_AN_AGENT = "export default { hello: 1 };"


async def test_the_template_is_deployed_behind_the_custom_domain(house: House) -> None:
    house.start()
    agent = new_agent()
    deployment = await house.deploy(agent, templates.load(templates.DEFAULT))
    event = await house.until_stated(deployment)

    assert isinstance(event, DeploymentSucceeded), event
    assert event.invoke_url == f"https://{house.host}/dep/{deployment}/invoke"
    stated = house.stated(deployment)
    assert isinstance(stated[0], DeploymentStarted)
    assert (stated[0].key_version, stated[0].key_generation) == (2, 1)
    assert [e.step for e in stated if isinstance(e, DeploymentStepSucceeded)] == STEPS
    assert await house.scripts() == [event.worker_name]
    assert await house.routes() == [f"{house.host}/dep/{deployment}/*"]

    first = await house.invoke(event.invoke_url, deployment, "hi")
    assert first.json()["output"] == {"text": "You said: hi"}
    session = first.json()["sessionId"]
    second = await house.invoke(event.invoke_url, deployment, "hi", sessionId=session)
    assert second.json()["output"] == {"text": "You said: hi (turn 2)"}


async def test_the_worker_reports_with_its_deployments_own_key(house: House) -> None:
    reports: list[tuple[bytes, bytes]] = []

    async def ingest(scope, receive, send):
        request = Request(scope, receive)
        signature = request.headers[TELEMETRY_SIGNATURE_HEADER].encode()
        reports.append((await request.body(), signature))
        await Response(status_code=202)(scope, receive, send)

    async with serving(ingest) as url:
        house.env["CONTROL_PLANE_TELEMETRY_REPORT_URL"] = f"{url}/v1/telemetry/report"
        house.start()
        agent = new_agent()
        deployment = await house.deploy(agent)
        event = await house.until_stated(deployment)
        assert isinstance(event, DeploymentSucceeded), event
        assert (await house.invoke(event.invoke_url, deployment, "you")).status_code == 200

        async def reported() -> bool:
            return bool(reports)

        await eventually(reported, "the Worker's report")
    ((body, signature),) = reports
    keys = MasterKeys.parse(house.env["TELEMETRY_MASTER_KEYS"])
    key = keys.telemetry_key(2, deployment, 1)
    assert key is not None
    assert telemetry_signature_matches(key, body, signature)
    said = msgspec.json.decode(body)
    assert (said["userId"], said["agentId"]) == (house.user_id, agent)


async def test_an_agent_on_workers_dev(house: House) -> None:
    del house.env["CLOUDFLARE_ZONE_ID"], house.env["CLOUDFLARE_WORKERS_CUSTOM_DOMAIN"]
    house.env["CLOUDFLARE_WORKERS_DEV_SUBDOMAIN"] = house.edge.subdomain
    house.start()
    agent = new_agent()
    deployment = await house.deploy(agent)
    event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    host = f"{event.worker_name}.{house.edge.subdomain}.workers.dev"
    assert event.invoke_url == f"https://{host}/invoke"
    answer = await house.invoke(event.invoke_url, deployment, "you")
    assert answer.json()["output"] == {"text": "hello you"}

    await house.delete(agent)
    await house.until_quiet()
    assert await house.scripts() == []
    assert house.phases() == {"torn_down"}


@pytest.mark.parametrize("code", [BROKEN, THROWS], ids=["broken", "throws"])
@pytest.mark.accept("10")
async def test_a_broken_module_fails_at_upload_and_leaves_nothing(house: House, code: str) -> None:
    house.start()
    deployment = await house.deploy(new_agent(), code)
    event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "upload"
    assert (event.error.endpoint or "").startswith("PUT /workers/scripts/whs-")
    assert event.error.provider_code == "10021"
    assert "Error" in (event.error.provider_message or "")
    assert await house.scripts() == []
    assert await house.routes() == []


async def test_a_module_that_is_no_agent_fails_at_the_probe(house: House) -> None:
    house.start()
    deployment = await house.deploy(new_agent(), NOT_AN_AGENT)
    event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "probe"
    assert "neither invoke() nor fetch()" in (event.error.provider_message or "")
    assert await house.scripts() == []
    assert await house.routes() == []


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
    house: House, changes: dict[str, object], message: str
) -> None:
    house.start()
    deployment = await house.deploy(new_agent(), **changes)
    event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "validate"
    assert message in event.error.message
    assert await house.scripts() == []


async def test_a_command_that_comes_twice_deploys_once(house: House) -> None:
    agent = new_agent()
    deployment = await house.deploy(agent)
    message = await house.bus.js.get_last_msg("COMMANDS", f"cmd.deployer.{DEPLOY}.{deployment}")
    assert message.data is not None
    await house.bus.js.publish(f"cmd.deployer.{DEPLOY}.{deployment}", message.data)
    house.start()
    await house.until_stated(deployment)
    await house.until_quiet()
    assert len(house.stated(deployment)) == 7
    assert len(await house.scripts()) == 1


async def test_a_deployment_waits_for_an_edge_that_is_away(house: House) -> None:
    async with gated(house) as gate:
        gate.open = False
        house.start()
        deployment = await house.deploy(new_agent())

        def failed_twice(event: object) -> bool:
            return isinstance(event, DeploymentStepFailed) and event.attempt == 2

        retried = await house.until_stated(deployment, failed_twice)
        assert isinstance(retried, DeploymentStepFailed)
        assert retried.retry_at_ms is not None
        assert retried.error.step == "session_store"
        gate.open = True
        event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    assert gate.refused >= 2


@pytest.mark.accept("8.purge")
async def test_deleting_an_agent_removes_all_of_it_and_its_sessions(house: House) -> None:
    house.start()
    agent, other = new_agent(), new_agent()
    first, second = await house.deploy(agent), await house.deploy(agent)
    kept = await house.deploy(other)
    for deployment in (first, second, kept):
        assert isinstance(await house.until_stated(deployment), DeploymentSucceeded)
    peer = await session_peer(house, agent)
    opened = await peer("open", {})
    assert opened.status_code == 200
    session = opened.json()["sessionId"]

    await house.delete(agent)
    await house.until_quiet()
    for deployment in (first, second):
        assert isinstance(house.stated(deployment)[-1], DeploymentTornDown)
    assert await house.routes() == [f"{house.host}/dep/{kept}/*"]
    assert len(await house.scripts()) == 1
    assert (await peer("history", {"sessionId": session})).status_code == 410
    assert (await peer("open", {})).status_code == 410

    late = await house.deploy(agent)
    event = await house.until_stated(late)
    assert isinstance(event, DeploymentFailed)
    assert event.error.message == "The agent was deleted."


@pytest.mark.accept("8.deletion")
async def test_a_deletion_stops_a_deployment_that_is_under_way(house: House) -> None:
    async with gated(house) as gate:
        gate.open = False
        house.start()
        agent = new_agent()
        deployment = await house.deploy(agent)
        await house.until_stated(deployment, lambda e: isinstance(e, DeploymentStepFailed))
        await house.delete(agent)
        event = await house.until_stated(deployment)
        assert isinstance(event, DeploymentFailed)
        assert event.error.message == "The agent was deleted."
        gate.open = True
        await house.until_quiet()
    assert await house.scripts() == []


async def test_a_retired_deployment_is_torn_down_when_its_time_has_come(house: House) -> None:
    house.start()
    agent = new_agent()
    retired, active = await house.deploy(agent), await house.deploy(agent)
    event = await house.until_stated(retired)
    assert isinstance(event, DeploymentSucceeded)
    await house.until_stated(active)
    not_before = now_ms() + 2_000
    await house.tear_down(agent, retired, not_before)
    await house.until_stated(retired, lambda e: isinstance(e, DeploymentTornDown))
    assert now_ms() >= not_before
    assert await house.routes() == [f"{house.host}/dep/{active}/*"]
    assert (await house.get(event.invoke_url)).status_code == 404


@pytest.mark.accept("4.ownership")
async def test_what_others_have_is_never_touched(house: House) -> None:
    agent = new_agent()
    deployment = await house.deploy(agent)
    name = f"whs-{agent.removeprefix('agt_')}-{deployment.removeprefix('dep_')}"
    strange = f"{house.host}/dep/{deployment}/strange/*"
    # Somebody else's script, by chance of the very name; somebody else's route.
    await put_script(house, f"owner-{name}"[:63], tags=["of-the-owner"])
    await house.api(
        "POST",
        f"/zones/{house.edge.zone_id}/workers/routes",
        json={"pattern": strange, "script": f"owner-{name}"[:63]},
    )
    house.start()
    assert isinstance(await house.until_stated(deployment), DeploymentSucceeded)
    await house.delete(agent)
    await house.until_quiet()
    assert await house.routes() == [strange]
    found = await house.api("GET", f"/accounts/{house.edge.account_id}/workers/scripts")
    assert f"owner-{name}"[:63] in [script["id"] for script in found]


async def test_several_deployers_share_the_work_and_one_session_worker(house: House) -> None:
    deployments = [await house.deploy(new_agent()) for _ in range(4)]
    house.start()
    house.start()
    for deployment in deployments:
        assert isinstance(await house.until_stated(deployment), DeploymentSucceeded)
    await house.until_quiet()
    for deployment in deployments:
        assert not any(isinstance(e, DeploymentStepFailed) for e in house.stated(deployment))
    assert len(await house.session_workers()) == 1
    assert len(await house.scripts()) == 4


async def put_script(house: House, name: str, **metadata: object) -> None:
    described = {"main_module": "main.mjs", "compatibility_date": "2026-01-01", **metadata}
    code = "export default { fetch: (request, env) => env.S?.fetch(request) ?? new Response() };"
    await house.api(
        "PUT",
        f"/accounts/{house.edge.account_id}/workers/scripts/{name}",
        files={
            "metadata": (None, httpx.Response(200, json=described).content),
            "main.mjs": ("main.mjs", code, "application/javascript+module"),
        },
    )


async def session_peer(house: House, agent: str):
    """A script of the test's own that may do with the session store what this agent may."""
    (store,) = await house.session_workers()
    name = f"peer-{agent.removeprefix('agt_')}"
    binding = {"type": "service", "name": "S", "service": store, "props": {"agentId": agent}}
    await put_script(house, name, bindings=[binding])
    await house.api(
        "POST",
        f"/accounts/{house.edge.account_id}/workers/scripts/{name}/subdomain",
        json={"enabled": True},
    )

    async def ask(operation: str, body: dict[str, object]) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.post(
                f"{house.edge.origin}/v1/{operation}",
                json=body,
                headers={"Host": f"{name}.{house.edge.subdomain}.workers.dev"},
            )

    return ask
