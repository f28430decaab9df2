"""From a deploy request to the pointer, the tests playing the deployer."""

from typing import Any

import pytest
from webhost_contracts import subjects
from webhost_contracts.commands import (
    DEPLOY,
    TEAR_DOWN,
    TEAR_DOWN_AGENT,
    Deploy,
    TearDown,
    TearDownAgent,
)
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    AgentDeleted,
    DeploymentFailed,
    DeploymentRequested,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_kit.clock import now_ms

from tests.integration.api.harness import Harness, User, ok, problem
from tests.support.deadline import eventually

MODULE = "export default { async invoke() { return 'hi'; } };"


def succeeded(agent_id: str) -> DeploymentSucceeded:
    return DeploymentSucceeded(agent_id=agent_id, worker_name="whs-a", invoke_url="https://w/i")


async def until_status(user: User, deployment_id: str, *statuses: str) -> dict[str, Any]:
    async def reached() -> bool:
        return (await user.deployment(deployment_id))["status"] in statuses

    await eventually(reached, f"the deployment to be {statuses}")
    return await user.deployment(deployment_id)


async def deployed(harness: Harness, user: User, agent_id: str, **fields: Any) -> dict[str, Any]:
    deployment = await user.deploy(agent_id, **fields)
    await harness.given(user.id, deployment["id"], succeeded(agent_id), version=4)
    return await until_status(user, deployment["id"], "active", "inactive")


async def test_a_deploy_sends_a_command_caused_by_its_fact(harness: Harness, user: User) -> None:
    agent = await user.create()
    deployment = await user.deploy(
        agent["id"], moduleCode=MODULE, mainModuleName="main.js", commitHash="0f3a9c2"
    )
    assert deployment["status"] == "deploying"
    assert deployment["version"] == 1
    assert deployment["protocol"] == "invoke/v1"
    assert deployment["commitHash"] == "0f3a9c2"
    assert deployment["deployedByUserId"] == user.id
    assert (await user.agent(agent["id"]))["status"] == "deploying"

    fact = await harness.fact(user.id, DeploymentRequested, agent["id"])
    command = await harness.command(DEPLOY, agent["id"], Deploy)
    assert command.causation_id == fact.event_id
    assert command.deployment_id == deployment["id"]
    assert command.artifact.checksum == deployment["artifact"]["checksum"]
    assert command.tier == "free"

    source = ok(await user.http.get(f"/v1/deployments/{deployment['id']}/source"))
    assert source == {"modules": [{"name": "main.js", "content": MODULE}]}


async def test_without_code_the_template_is_deployed(user: User) -> None:
    template = ok(await user.http.get("/v1/templates"))["templates"][0]
    agent = await user.create()
    answer = await user.http.post(f"/v1/agents/{agent['id']}/deployments")
    deployment = ok(answer, 202)["deployment"]
    source = ok(await user.http.get(f"/v1/deployments/{deployment['id']}/source"))
    assert source["modules"] == [{"name": "agent.mjs", "content": template["moduleCode"]}]


async def test_success_flips_the_pointer(harness: Harness, user: User) -> None:
    agent = await user.create()
    first = await deployed(harness, user, agent["id"])
    assert first["status"] == "active"
    assert first["providerRef"] == {"workerName": "whs-a", "invokeUrl": "https://w/i"}
    assert first["deployedAtMs"] >= first["createdAtMs"]
    now = await user.agent(agent["id"])
    assert now["status"] == "active"
    assert now["activeDeploymentId"] == first["id"]

    second = await deployed(harness, user, agent["id"])
    assert second["version"] == 2
    assert (await user.deployment(first["id"]))["status"] == "inactive"
    assert (await user.agent(agent["id"]))["activeDeploymentId"] == second["id"]


async def test_set_as_active_false_leaves_the_pointer(harness: Harness, user: User) -> None:
    agent = await user.create()
    first = await deployed(harness, user, agent["id"])
    second = await deployed(harness, user, agent["id"], setAsActive=False)
    assert second["status"] == "inactive"
    assert (await user.agent(agent["id"]))["activeDeploymentId"] == first["id"]

    path = f"/v1/agents/{agent['id']}/deployments/{second['id']}/activate"
    activated = ok(await user.http.post(path, json={"reason": "looks good"}))
    assert activated["deployment"]["status"] == "active"
    assert activated["agent"]["activeDeploymentId"] == second["id"]
    path = f"/v1/agents/{agent['id']}/deployments/{first['id']}/activate"
    assert ok(await user.http.post(path))["agent"]["activeDeploymentId"] == first["id"]


@pytest.mark.accept("4.failed-deploy")
async def test_a_failed_deploy_leaves_the_pointer(harness: Harness, user: User) -> None:
    agent = await user.create()
    error = DeploymentError(
        step="upload",
        message="Cloudflare refused the script.",
        endpoint="PUT /scripts",
        provider_code="10021",
        provider_message="SyntaxError",
    )
    failed = await user.deploy(agent["id"])
    fact = DeploymentFailed(agent_id=agent["id"], error=error)
    await harness.given(user.id, failed["id"], fact, version=3)
    failed = await until_status(user, failed["id"], "failed")
    assert failed["errorMessage"] == error.message
    assert failed["error"] == {
        "code": "DEPLOYMENT_FAILED",
        "message": error.message,
        "retryable": False,
        "details": {
            "step": "upload",
            "endpoint": "PUT /scripts",
            "providerCode": "10021",
            "providerMessage": "SyntaxError",
        },
    }
    assert (await user.agent(agent["id"]))["status"] == "error"
    path = f"/v1/agents/{agent['id']}/deployments/{failed['id']}/activate"
    problem(await user.http.post(path), 409, "CONFLICT")

    good = await deployed(harness, user, agent["id"])
    again = await user.deploy(agent["id"])
    await harness.given(user.id, again["id"], fact, version=3)
    await until_status(user, again["id"], "failed")
    now = await user.agent(agent["id"])
    assert (now["status"], now["activeDeploymentId"]) == ("active", good["id"])


@pytest.mark.accept("4.one-deploy")
async def test_one_deploy_at_a_time(user: User) -> None:
    agent = await user.create()
    await user.deploy(agent["id"])
    path = f"/v1/agents/{agent['id']}/deploy"
    error = problem(await user.http.post(path, json={}), 409, "CONFLICT")
    assert error["retryable"] is False


@pytest.mark.accept("8.retention")
async def test_old_good_deployments_are_retired_and_torn_down(harness: Harness, user: User) -> None:
    agent = await user.create()
    before = now_ms()
    made = [await deployed(harness, user, agent["id"]) for _ in range(6)]
    command = await harness.command(TEAR_DOWN, agent["id"], TearDown)
    assert command.deployment_id == made[0]["id"]
    assert command.not_before_ms >= before + 70_000
    path = f"/v1/agents/{agent['id']}/deployments/{made[0]['id']}/activate"
    problem(await user.http.post(path), 409, "CONFLICT")
    path = f"/v1/agents/{agent['id']}/deployments/{made[1]['id']}/activate"
    ok(await user.http.post(path))

    await harness.given(user.id, made[0]["id"], DeploymentTornDown(agent_id=agent["id"]), version=5)
    await until_status(user, made[0]["id"], "deleted")


async def test_deleting_ends_a_running_deploy(harness: Harness, user: User) -> None:
    agent = await user.create()
    first = await deployed(harness, user, agent["id"])
    running = await user.deploy(agent["id"])
    gone = ok(await user.http.delete(f"/v1/agents/{agent['id']}"))["agent"]
    assert gone["status"] == "deleted"
    assert "activeDeploymentId" not in gone
    fact = await harness.fact(user.id, AgentDeleted, agent["id"])
    command = await harness.command(TEAR_DOWN_AGENT, agent["id"], TearDownAgent)
    assert command.causation_id == fact.event_id

    # The deployer may have succeeded just before it heard of the deletion.
    await harness.given(user.id, running["id"], succeeded(agent["id"]), version=4)
    ended = await until_status(user, running["id"], "failed")
    assert ended["error"]["details"]["step"] == "delete"
    torn_down = DeploymentTornDown(agent_id=agent["id"])
    await harness.given(user.id, running["id"], torn_down, version=5)
    await harness.given(user.id, first["id"], torn_down, version=5)
    await until_status(user, first["id"], "deleted")
    assert (await user.deployment(running["id"]))["status"] == "failed"


async def test_an_old_fact_changes_nothing(harness: Harness, user: User) -> None:
    agent = await user.create()
    deployment = await deployed(harness, user, agent["id"])
    error = DeploymentError(step="probe", message="late")
    await harness.given(
        user.id, deployment["id"], DeploymentFailed(agent_id=agent["id"], error=error), version=3
    )
    marker = await deployed(harness, user, agent["id"])  # folded behind the old fact
    assert marker["status"] == "active"
    assert (await user.deployment(deployment["id"]))["status"] == "inactive"


@pytest.mark.accept("4")
async def test_killed_before_the_pointer_flip_it_flips_after_the_restart(
    own_harness: Harness,
) -> None:
    harness = own_harness
    user = harness.user()
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    await user.http.aclose()
    harness.crash_file.write_text("api.before_pointer_flip")
    await harness.given(user.id, deployment["id"], succeeded(agent["id"]), version=4)
    await harness.service.died()
    assert not harness.crash_file.exists()

    await harness.start()
    async with harness.client(**dict(user.http.headers)) as user.http:
        ended = await until_status(user, deployment["id"], "active")
        assert (await user.agent(agent["id"]))["activeDeploymentId"] == ended["id"]


@pytest.mark.accept("4")
async def test_killed_behind_a_deploy_request_the_command_still_goes_out(
    own_harness: Harness,
) -> None:
    harness = own_harness
    user = harness.user()
    agent = await user.create()
    harness.crash_file.write_text("api.deploy_requested")
    headers = {"Idempotency-Key": "once"}
    path = f"/v1/agents/{agent['id']}/deploy"
    with pytest.raises(Exception, match=r"disconnect|Connection"):
        await user.http.post(path, json={}, headers=headers)
    await user.http.aclose()
    await harness.service.died()

    await harness.start()
    async with harness.client(**dict(user.http.headers)) as http:
        deployment = ok(await http.post(path, json={}, headers=headers), 202)["deployment"]
    command = await harness.command(DEPLOY, agent["id"], Deploy)
    assert command.deployment_id == deployment["id"]
    assert deployment["version"] == 1


async def test_code_of_a_refused_deploy_is_not_stored(harness: Harness, user: User) -> None:
    agent = await user.create()
    await user.deploy(agent["id"], moduleCode=MODULE)
    store = subjects.ARTIFACTS_STREAM
    before = (await harness.bus.js.stream_info(store)).state.messages
    body = {"moduleCode": MODULE + "// never stored"}
    problem(await user.http.post(f"/v1/agents/{agent['id']}/deploy", json=body), 409, "CONFLICT")
    stranger = harness.user()
    answer = await stranger.http.post(f"/v1/agents/{agent['id']}/deploy", json=body)
    problem(answer, 404, "NOT_FOUND")
    assert (await harness.bus.js.stream_info(store)).state.messages == before


async def test_a_lost_artifact_store_is_made_again(own_harness: Harness) -> None:
    harness, user = own_harness, own_harness.user()
    old = await user.deploy((await user.create())["id"], moduleCode=MODULE)
    source = f"/v1/deployments/{old['id']}/source"
    assert ok(await user.http.get(source))["modules"][0]["content"] == MODULE
    agent = await user.create()
    await harness.bus.js.delete_stream(subjects.ARTIFACTS_STREAM)

    async def says_so() -> bool:
        said = (await harness.service.complaints()).get("streams", "")
        return f"{subjects.ARTIFACTS_STREAM} is missing" in said

    await eventually(says_so, "the api to say what is missing")
    await harness.service.until_ready()
    gone = problem(await user.http.get(source), 404, "NOT_FOUND")
    assert gone["message"] == "The code of this deployment is no longer stored; deploy it again."
    new = await user.deploy(agent["id"], moduleCode=MODULE)
    assert ok(await user.http.get(f"/v1/deployments/{new['id']}/source"))["modules"]


async def test_code_that_has_lost_its_content_is_stored_again(harness: Harness, user: User) -> None:
    agents = [(await user.create())["id"] for _ in range(2)]
    code = "export default { invoke: () => 'content' };"
    await user.deploy(agents[0], moduleCode=code)
    await harness.bus.js.purge_stream(
        subjects.ARTIFACTS_STREAM, subject=f"$O.{subjects.ARTIFACTS_BUCKET}.C.>"
    )
    deployment = await user.deploy(agents[1], moduleCode=code)
    answer = await user.http.get(f"/v1/deployments/{deployment['id']}/source")
    assert code in ok(answer)["modules"][0]["content"]
