"""Artifacts go when no deployment needs them, and not before."""

import asyncio
import base64
from typing import Any

import pytest
from webhost_api.artifacts import Artifacts, pack
from webhost_api.collector import Collector, want
from webhost_contracts import subjects
from webhost_contracts.artifacts import Bundle, Module
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import DeploymentFailed, DeploymentTornDown
from webhost_kit.errors import Unavailable

from tests.integration.api.harness import Harness, User, ok, problem
from tests.integration.api.test_deploying import deployed, until_status
from tests.support.backup import a_copy
from tests.support.deadline import eventually
from tests.support.infra import Postgres

DAY_MS = 24 * 3_600_000
GRACE_S = 24 * 3600


def code(text: str) -> str:
    return f"export default {{ async invoke() {{ return {text!r}; }} }};"


async def stored(harness: Harness) -> set[str]:
    """The names in the store; the mark that one was removed would be one, too."""
    prefix = "$O.ARTIFACTS.M."
    info = await harness.bus.js.stream_info(subjects.ARTIFACTS_STREAM, subjects_filter=f"{prefix}>")
    names = [subject.removeprefix(prefix) for subject in info.state.subjects or {}]
    return {base64.urlsafe_b64decode(name).decode() for name in names}


async def messages(harness: Harness) -> int:
    return (await harness.bus.js.stream_info(subjects.ARTIFACTS_STREAM)).state.messages


async def a_day_later(harness: Harness) -> None:
    """Nobody has meant to deploy anything for longer than the grace time."""
    await harness.execute("UPDATE artifacts SET wanted_at_ms = wanted_at_ms - :ms", ms=DAY_MS + 1)


async def lives(harness: Harness, user: User) -> dict[str, dict[str, Any]]:
    """Deployments in each state, each with code of its own, by state."""
    agent = await user.create()

    async def made(name: str, **fields: Any) -> dict[str, Any]:
        return await deployed(harness, user, agent["id"], moduleCode=code(name), **fields)

    deleted, inactive, active = [await made(name) for name in ("deleted", "inactive", "active")]
    gone = DeploymentTornDown(agent_id=agent["id"])
    await harness.given(user.id, deleted["id"], gone, version=5)
    await until_status(user, deleted["id"], "deleted")
    failed = await user.deploy(agent["id"], moduleCode=code("failed"))
    error = DeploymentFailed(agent_id=agent["id"], error=DeploymentError(step="probe", message="n"))
    await harness.given(user.id, failed["id"], error, version=4)
    await until_status(user, failed["id"], "failed")
    running = await user.deploy(agent["id"], moduleCode=code("running"))
    return {
        "deleted": deleted,
        "inactive": inactive,
        "active": active,
        "failed": failed,
        "running": running,
    }


def checksums(made: dict[str, dict[str, Any]], *states: str) -> set[str]:
    return {made[state]["artifact"]["checksum"] for state in states}


NEEDED = ("inactive", "active", "running")
UNNEEDED = ("deleted", "failed")


@pytest.mark.accept("6.C3.artifacts")
async def test_what_no_deployment_needs_is_removed_after_its_grace_time(
    own_harness: Harness,
) -> None:
    harness, user = own_harness, own_harness.user()
    made = await lives(harness, user)
    everything = checksums(made, *NEEDED, *UNNEEDED)
    collector = Collector(harness.database, harness.bus, grace_s=GRACE_S)
    assert await collector.once() == 0
    assert await stored(harness) == everything

    await a_day_later(harness)
    before = await messages(harness)
    assert await collector.once() == 2
    assert await stored(harness) == checksums(made, *NEEDED)
    assert await messages(harness) == before - 4  # what was there, and a chunk each
    assert await collector.once() == 0

    for state in NEEDED:
        ok(await user.http.get(f"/v1/deployments/{made[state]['id']}/source"))
    for state in UNNEEDED:
        answer = await user.http.get(f"/v1/deployments/{made[state]['id']}/source")
        assert "deploy it again" in problem(answer, 404, "NOT_FOUND")["message"]


@pytest.mark.accept("6.C3.artifacts")
async def test_a_running_api_collects(own_harness: Harness) -> None:
    harness, user = own_harness, own_harness.user()
    made = await lives(harness, user)
    await harness.service.kill()
    await harness.start(ARTIFACT_GRACE_S="0.5")

    async def collected() -> bool:
        return await stored(harness) == checksums(made, *NEEDED)

    await eventually(collected, "what is not needed to be removed", seconds=20)


@pytest.mark.accept("6.C3.artifacts")
async def test_what_is_about_to_be_deployed_again_stays_or_is_stored_again(
    own_harness: Harness,
) -> None:
    """The removal holds the lock of the row that says that somebody means to deploy it."""
    harness, user = own_harness, own_harness.user()
    made = await lives(harness, user)
    await a_day_later(harness)
    collector = Collector(harness.database, harness.bus, grace_s=GRACE_S)

    # It is wanted between the look and the removal: it stays.
    unneeded = await collector._unneeded()
    assert set(unneeded) == checksums(made, *UNNEEDED)
    await want(harness.database, unneeded[0])
    assert await collector._remove(unneeded[0]) is False
    assert await collector._remove(unneeded[1]) is True

    # It is wanted while it is removed: that waits, and stores it again.
    artifact, body = pack(Bundle(modules=(Module(name="index.mjs", content=code("again")),)))
    artifacts = Artifacts(harness.bus, harness.database)
    await artifacts.put(artifact, body)
    await a_day_later(harness)
    removing, go_on = asyncio.Event(), asyncio.Event()
    remove_stored = collector._remove_stored

    async def slowly(checksum: str) -> None:
        removing.set()
        await go_on.wait()
        await remove_stored(checksum)

    collector._remove_stored = slowly  # type: ignore[method-assign]
    removal = asyncio.create_task(collector._remove(artifact.checksum))
    await removing.wait()
    put = asyncio.create_task(artifacts.put(artifact, body))
    done, _ = await asyncio.wait([put], timeout=0.5)
    assert not done
    go_on.set()
    assert await removal is True
    await put
    assert await artifacts.read(artifact) == body


@pytest.mark.accept("6.C3.artifacts")
async def test_nothing_is_removed_by_tables_that_are_older_than_the_streams(
    own_harness: Harness, postgres_server: Postgres
) -> None:
    """Of a deployment that the backup lacks, the artifact is not known, and has its grace time."""
    harness, user = own_harness, own_harness.user()
    await harness.service.until_ready()
    with a_copy(postgres_server, harness.dsn) as put_back:
        await harness.service.until_ready()
        made = await lives(harness, user)
        await a_day_later(harness)
        put_back()
    collector = Collector(harness.database, harness.bus, grace_s=GRACE_S)
    harness.database.verified = "another"
    with pytest.raises(Unavailable):
        await collector.once()
    assert await stored(harness) == checksums(made, *NEEDED, *UNNEEDED)

    harness.database.verified = None
    await harness.service.until_ready()
    await until_status(user, made["active"]["id"], "active")
    assert await collector.once() == 0
    assert await stored(harness) == checksums(made, *NEEDED, *UNNEEDED)
    await until_status(user, made["failed"]["id"], "failed")
    await until_status(user, made["deleted"]["id"], "deleted")
    await a_day_later(harness)
    assert await collector.once() == 2
    assert await stored(harness) == checksums(made, *NEEDED)


@pytest.mark.accept("6.C3.artifacts")
async def test_an_interrupted_removal_is_ended(own_harness: Harness) -> None:
    """Killed behind the mark that it is removed: nothing of it stays."""
    harness, user = own_harness, own_harness.user()
    made = await lives(harness, user)
    store = await harness.bus.js.object_store(subjects.ARTIFACTS_BUCKET)
    [checksum] = checksums(made, "failed")
    await store.delete(checksum)
    await a_day_later(harness)
    assert await Collector(harness.database, harness.bus, grace_s=GRACE_S).once() == 2
    assert await stored(harness) == checksums(made, *NEEDED)


@pytest.mark.accept("6.C3.artifacts")
async def test_what_was_not_stored_to_its_end_is_removed(own_harness: Harness) -> None:
    harness, user = own_harness, own_harness.user()
    made = await lives(harness, user)
    before = await messages(harness)
    for _ in range(3):
        # As one leaves it that died before it had put the name.
        await harness.bus.js.publish("$O.ARTIFACTS.C.unfinished", b"x" * 1_000)
    collector = Collector(harness.database, harness.bus, grace_s=GRACE_S)
    for _ in range(2):
        await collector.once()
    assert await messages(harness) == before + 3, "it may be in the middle of it"
    late = Collector(harness.database, harness.bus, grace_s=GRACE_S, nameless_s=0)
    await late.once()
    assert await messages(harness) == before
    for state in NEEDED:
        ok(await user.http.get(f"/v1/deployments/{made[state]['id']}/source"))
