"""Reconciliation against a real edge: orphans are removed, everything else stays."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from prometheus_client import REGISTRY
from webhost_contracts.events import DeploymentSucceeded
from webhost_deployer.app import cloudflare_of
from webhost_deployer.cloudflare.addresses import front_name, outbound_name
from webhost_deployer.cloudflare.reconciliation import Reconciliation, TablesBehind
from webhost_deployer.settings import Settings
from webhost_kit.process.service import Service

from tests.integration.deployer.conftest import on_both_layouts
from tests.integration.deployer.harness import Harness, new_agent, new_deployment, put_script
from tests.support.deadline import eventually
from tests.support.service import environment


@pytest.fixture
async def reconciliation(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reconciliation]:
    for name, value in environment(harness.dsn, harness.nats_url, **harness.env).items():
        monkeypatch.setenv(name, value)
    async with aclosing(Service("deployer")) as service:
        settings = Settings()
        provider, account = cloudflare_of(service, settings, harness.database)
        yield Reconciliation(
            harness.database,
            harness.bus,
            account,
            settings.routing,
            partial(provider.refresh_installation, None),
            every_s=settings.reconcile_every_s,
        )


async def deployed(harness: Harness) -> DeploymentSucceeded:
    event = await harness.until_stated(await harness.deploy(new_agent()))
    assert isinstance(event, DeploymentSucceeded), event
    return event


@pytest.mark.accept("8.reconciliation")
async def test_what_no_deployment_owns_is_removed(
    harness: Harness, reconciliation: Reconciliation
) -> None:
    await harness.start()
    kept, left = await deployed(harness), await deployed(harness)
    await harness.until_quiet()
    await failed(harness, left)
    done = await reconciliation.once()
    assert {script.name for script in done.scripts} == {
        left.worker_name,
        f"{left.worker_name}-code",
    }
    assert await harness.scripts() == [kept.worker_name]
    assert len(await harness.routes()) == 1
    assert len(await harness.session_workers()) == 1
    again = await reconciliation.once()
    assert (again.scripts, again.routes, again.missing) == ((), (), ())


@pytest.mark.accept("6.A3")
@pytest.mark.parametrize("namespace", ["customers"], indirect=True)
async def test_changed_rules_of_egress_are_in_force_without_a_deploy(harness: Harness) -> None:
    async def version() -> list[str]:
        found = await harness.api("GET", f"/accounts/{harness.edge.account_id}/workers/scripts")
        name = outbound_name(harness.installation_id)
        [tags] = [script["tags"] for script in found if script["id"] == name]
        return tags

    harness.env["RECONCILE_EVERY_S"] = "1"
    first = await harness.start()
    await deployed(harness)
    before = await version()
    await first.stop()
    harness.env["AGENT_EGRESS"] = '{"default": []}'
    await harness.start()

    async def is_new() -> bool:
        return await version() != before

    await eventually(is_new, "the outbound Worker to be uploaded again", seconds=30)


@pytest.mark.accept("A14")
async def test_a_failed_deployments_route_goes_though_its_script_is_gone(
    harness: Harness, reconciliation: Reconciliation
) -> None:
    await harness.start()
    kept, left = await deployed(harness), await deployed(harness)
    await harness.until_quiet()
    await failed(harness, left)
    # The owner's own: of our pattern but to a script of theirs, and to a script of ours.
    strange = f"{harness.host}/dep/{new_deployment()}/*"
    more = f"{harness.host}/dep/elsewhere/*"
    await put_script(harness, "owners-script")
    for pattern, script in ((strange, "owners-script"), (more, left.worker_name)):
        await add_route(harness, pattern, script)
    await delete_script(harness, left.worker_name)
    done = await reconciliation.once()
    assert done.scripts == ()
    assert [route.script for route in done.routes] == [left.worker_name]
    assert len(await harness.routes()) == 3
    assert {strange, more} < set(await harness.routes())
    assert await harness.scripts() == [kept.worker_name]


@pytest.mark.accept("A14")
async def test_a_route_of_nothing_known_goes_unless_its_script_is_anothers(
    harness: Harness, reconciliation: Reconciliation
) -> None:
    await harness.start()
    kept = await deployed(harness)
    gone, anothers = ((new_agent(), new_deployment()) for _ in range(2))
    for agent, deployment in (gone, anothers):
        name = front_name(agent, deployment)
        await put_script(harness, name, tags=["installation-another"])
        await add_route(harness, f"{harness.host}/dep/{deployment}/*", name)
    await delete_script(harness, front_name(*gone))
    done = await reconciliation.once()
    assert [route.script for route in done.routes] == [front_name(*gone)]
    assert [route.pattern.split("/")[2] for route in done.routes] == [gone[1]]
    assert len(await harness.routes()) == 2
    assert await harness.scripts() == [kept.worker_name]


@pytest.mark.accept("8.reconciliation")
async def test_nothing_is_removed_by_tables_older_than_the_stream(
    harness: Harness, reconciliation: Reconciliation
) -> None:
    await harness.start()
    event = await deployed(harness)
    await harness.until_quiet()
    await harness.execute("TRUNCATE deployments, events")
    with pytest.raises(TablesBehind):
        await reconciliation.once()
    await delete_script(harness, event.worker_name)
    with pytest.raises(TablesBehind):
        await reconciliation.once()
    assert len(await harness.routes()) == 1


@pytest.mark.accept("8.reconciliation")
@on_both_layouts
async def test_a_deployer_reconciles_by_itself(harness: Harness) -> None:
    harness.env["RECONCILE_EVERY_S"] = "0.5"
    await harness.start()
    await failed(harness, await deployed(harness))
    await until_no_script(harness)


@pytest.mark.accept("8.reconciliation")
@pytest.mark.parametrize("namespace", ["customers"], indirect=True)
async def test_what_is_left_in_a_retired_namespace_is_removed(harness: Harness) -> None:
    first = await harness.start()
    left = await deployed(harness)
    await first.stop()
    await failed(harness, left)
    harness.env["RECONCILE_EVERY_S"] = "0.5"
    retired = harness.env.pop("CLOUDFLARE_DISPATCH_NAMESPACE")
    harness.env["CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE"] = retired
    await harness.start()
    await until_no_script(harness)


async def until_no_script(harness: Harness) -> None:
    async def none() -> bool:
        return await harness.scripts() == []

    await eventually(none, "the orphan to be removed", seconds=20)


async def test_a_script_that_is_gone_is_reported(
    harness: Harness, reconciliation: Reconciliation
) -> None:
    await harness.start()
    kept, event = await deployed(harness), await deployed(harness)
    assert (await reconciliation.once()).missing == ()
    assert REGISTRY.get_sample_value("webhost_deployer_scripts_missing") == 0
    await delete_script(harness, event.worker_name)
    assert len((await reconciliation.once()).missing) == 1
    assert REGISTRY.get_sample_value("webhost_deployer_scripts_missing") == 1
    await delete_script(harness, kept.worker_name)
    await reconciliation.once(dry_run=True)
    assert REGISTRY.get_sample_value("webhost_deployer_scripts_missing") == 2


@pytest.mark.accept("7.saga.drift")
async def test_an_operator_sees_the_drift_and_then_removes_it(harness: Harness) -> None:
    await harness.start()
    kept, left, gone = [await deployed(harness) for _ in range(3)]
    await harness.until_quiet()
    await failed(harness, left)
    await delete_script(harness, gone.worker_name)
    lost = await harness.scalar(
        "SELECT deployment_id FROM deployments WHERE agent_id = :agent", agent=gone.agent_id
    )

    drift = reconcile(harness, "--dry-run")
    assert {*drift["scripts"]} == {left.worker_name, f"{left.worker_name}-code"}
    assert len(drift["routes"]) == 1
    assert (drift["missing"], drift["removed"]) == ([lost], False)
    assert {kept.worker_name, left.worker_name} == {*await harness.scripts()}
    assert len(await harness.routes()) == 3

    assert reconcile(harness) == drift | {"removed": True}
    assert await harness.scripts() == [kept.worker_name]
    assert len(await harness.routes()) == 2
    again = reconcile(harness)
    assert (again["scripts"], again["routes"], again["missing"]) == ([], [], [lost])


@pytest.mark.accept("7.saga.drift")
async def test_an_operator_is_refused_while_the_tables_are_behind_the_stream(
    harness: Harness,
) -> None:
    await harness.start()
    event = await deployed(harness)
    await harness.until_quiet()
    await harness.execute("TRUNCATE deployments, events")
    ended = webhost(harness, "cloudflare", "reconcile")
    assert ended.returncode == 1
    assert "behind the streams" in ended.stderr
    assert await harness.scripts() == [event.worker_name]


def reconcile(harness: Harness, *options: str) -> dict[str, Any]:
    """What the operator's command prints."""
    ended = webhost(harness, "cloudflare", "reconcile", "--json", *options)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def webhost(harness: Harness, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "webhost_cli", *arguments],
        env=os.environ | {"NATS_URL": harness.nats_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def failed(harness: Harness, event: DeploymentSucceeded) -> None:
    """Let the deployment have failed, as after a compensation that Cloudflare's absence ended."""
    await harness.execute(
        "UPDATE deployments SET phase = 'failed',"
        " state = jsonb_set(state, '{phase}', '\"failed\"') WHERE agent_id = :agent",
        agent=event.agent_id,
    )


async def delete_script(harness: Harness, name: str) -> None:
    """Delete a deployment's scripts, by the name of the one that is called first."""
    path = f"/accounts/{harness.edge.account_id}/workers/scripts"
    for script in (name, f"{name}-code"):
        if script in await harness.listed(path, tag=None):
            await harness.api("DELETE", f"{path}/{script}", params={"force": "true"})


async def add_route(harness: Harness, pattern: str, script: str) -> None:
    path = f"/zones/{harness.edge.zone_id}/workers/routes"
    await harness.api("POST", path, json={"pattern": pattern, "script": script})
