"""Names and routes that are there already: ours is gone on with, another's is left alone."""

import secrets

import pytest
from webhost_deployer.cloudflare.addresses import agent_script_name, front_name, sessions_name
from webhost_deployer.model import Phase

from tests.integration.deployer.conftest import on_both_grounds
from tests.integration.deployer.saga_cases import Case, Ground, case_of
from tests.integration.deployer.what_is_left import Others, check_what_is_left, clean

CODE = "export default { fetch: () => new Response('there before') };"


async def put(ground: Ground, name: str, *tags: str, namespace: str | None = None) -> None:
    metadata = {"main_module": "m.mjs", "compatibility_date": "2026-01-01", "tags": [*tags]}
    within = {"dispatch_namespace": namespace} if namespace else {}
    scripts = ground.edge.sdk.workers.scripts
    if namespace:
        namespaces = ground.edge.sdk.workers_for_platforms.dispatch.namespaces
        if await ground.api("GET", ground.scripts_path(namespace)) is None:
            await namespaces.create(account_id=ground.edge.account_id, name=namespace)
        scripts = namespaces.scripts
    await scripts.update(
        name,
        account_id=ground.edge.account_id,
        metadata=metadata,
        files=[("m.mjs", CODE.encode(), "application/javascript+module")],
        **within,
    )


async def listed(ground: Ground, name: str, namespace: str | None = None) -> list[object]:
    found = await ground.api("GET", ground.scripts_path(namespace))
    return [script for script in found if script["id"] == name]


def agent_script(case: Case) -> str:
    return agent_script_name(case.agent_id, case.deployment_id)


async def failure_of(case: Case) -> dict[str, str]:
    await case.deploy()
    state = await case.state()
    assert state["phase"] == Phase.FAILED
    return state["failure"]


@pytest.mark.accept("7.saga.refusals")
@on_both_grounds
async def test_another_scripts_name_is_never_uploaded_over(ground: Ground, others: Others) -> None:
    async with case_of(ground) as case:
        await others.route(case.line.host)
        name = agent_script(case)
        await put(ground, name, "installation-another", namespace=case.namespace)
        before = await listed(ground, name, case.namespace)
        failure = await failure_of(case)
        assert (failure["step"], failure["providerMessage"]) == (
            "upload",
            f"The name {name} is taken.",
        )
        assert "the operator has to remove it" in failure["message"].replace("\n", " ")
        assert await listed(ground, name, case.namespace) == before != []
        await check_what_is_left(case, others, Phase.FAILED)
        await clean(case)


@pytest.mark.accept("7.saga.refusals")
@on_both_grounds
async def test_the_session_workers_name_neither(ground: Ground, others: Others) -> None:
    async with case_of(ground) as case:
        name = sessions_name(case.installation_id)
        await put(ground, name)
        before = await listed(ground, name)
        failure = await failure_of(case)
        assert (failure["step"], failure["providerMessage"]) == (
            "session_store",
            f"The name {name} is taken.",
        )
        assert await listed(ground, name) == before != []
        await clean(case)


@pytest.mark.accept("7.saga.refusals")
@on_both_grounds
async def test_what_an_earlier_attempt_left_is_gone_on_with(ground: Ground, others: Others) -> None:
    async with case_of(ground) as case:
        await others.route(case.line.host)
        tags = [f"installation-{case.installation_id}", f"deployment-{case.deployment_id}"]
        await put(ground, agent_script(case), *tags, namespace=case.namespace)
        if case.namespace is None:
            front = front_name(case.agent_id, case.deployment_id)
            await put(ground, front, *tags)
            await route(ground, f"{case.line.host}/dep/{case.deployment_id}/*", front)
        await case.deploy()
        assert (await case.state())["phase"] == Phase.LIVE
        await check_what_is_left(case, others, Phase.LIVE)
        await clean(case)


@pytest.mark.accept("7.saga.refusals")
@on_both_grounds
async def test_a_route_to_another_script_is_left_as_it_is(ground: Ground, others: Others) -> None:
    async with case_of(ground) as case:
        own = "*" if case.namespace else f"{case.deployment_id}/*"
        pattern = f"{case.line.host}/dep/{own}"
        await put(ground, name := f"theirs-{secrets.token_hex(4)}")
        await route(ground, pattern, name)
        failure = await failure_of(case)
        assert failure["providerCode"] == "10020"
        assert "leads to a script that is not this deployment's" in failure["message"]
        routes = await ground.api("GET", f"/zones/{ground.edge.zone_id}/workers/routes")
        assert [it["script"] for it in routes if it["pattern"] == pattern] == [name]
        assert await ground.scripts(f"deployment-{case.deployment_id}", case.namespace) == set()
        await clean(case)


async def route(ground: Ground, pattern: str, script: str) -> None:
    path = f"/zones/{ground.edge.zone_id}/workers/routes"
    await ground.api("POST", path, json={"pattern": pattern, "script": script})
