"""From an archive to a deployment; what is refused leaves nothing behind."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from webhost_api import uploads
from webhost_api.archives.entries import MAX_PACKED_BYTES
from webhost_api.bundles import Packed, read
from webhost_api.collector import Collector
from webhost_api.handlers import Caller
from webhost_api.idempotency import IdempotencyKey
from webhost_contracts import ids
from webhost_contracts.commands import DEPLOY, Deploy
from webhost_kit.clock import now_ms
from webhost_kit.errors import RateLimited
from webhost_kit.eventsourcing.store import EventMetadata, new_id
from webhost_kit.response_keys import ResponseKeys

from tests.integration.api.conftest import running_harness
from tests.integration.api.harness import KEYS, Harness, User, ok, problem
from tests.integration.api.held_table import held_table
from tests.integration.api.test_collector import GRACE_S, a_day_later, stored
from tests.support.bundles import (
    MAIN,
    MANIFEST,
    REFUSED,
    WASM,
    good_files,
    manifest,
    tarred,
    zipped,
)
from tests.support.infra import Nats, Postgres

ZIP = {"Content-Type": "application/zip"}
USERS_CASES = 50
"""So many uploads one user sends here: below the rate of deploys."""


def fresh(**more: str | bytes) -> dict[str, str | bytes]:
    """The files of a bundle that no other test has."""
    return good_files(**{"nonce.txt": secrets.token_hex(8), **more})


@pytest.fixture(scope="module")
async def isolated(
    nats_server: Nats, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """An api that is killed, and whose artifacts are collected."""
    directory = tmp_path_factory.mktemp("uploads")
    async with running_harness(nats_server, postgres_server, directory) as it:
        yield it


async def sent(user: User, archive: bytes, **headers: str) -> httpx.Response:
    return await user.http.post("/v1/uploads", content=archive, headers={**ZIP, **headers})


async def uploaded(user: User, archive: bytes, **headers: str) -> dict[str, Any]:
    return ok(await sent(user, archive, **headers), 201)["upload"]


async def kept(harness: Harness, user: User) -> dict[str, Any]:
    """All that an upload may write, of anybody."""
    tables = ("uploads", "artifacts", "idempotency_claims", "idempotency")
    counts = {name: await harness.scalar(f"SELECT count(*) FROM {name}") for name in tables}
    return counts | {"stored": await stored(harness), "user": user.id}


@pytest.mark.accept("7.4.uploads")
@pytest.mark.parametrize(("packer", "kind"), [(zipped, "zip"), (tarred, "gzip")])
async def test_an_upload_is_deployed(harness: Harness, user: User, packer: Any, kind: str) -> None:
    env = {"requiredKeys": ["API_KEY"], "optionalKeys": ["TONE"]}
    files = fresh(**{"lib/a.js": "export {};", "d.json": "{}", "x.wasm": WASM})
    archive = packer({**files, MANIFEST: manifest(env=env)})
    upload = await uploaded(user, archive, **{"Content-Type": f"application/{kind}"})
    assert ids.has_prefix(upload["id"], ids.UPLOAD)
    assert upload["manifest"] == {
        "protocol": "invoke/v1",
        "runtime": "cloudflare",
        "entrypoint": "main.mjs",
        "env": env,
        "capabilities": {"streaming": False, "tools": False},
    }
    assert upload["checksum"] in await stored(harness)
    kept_ms = "SELECT expires_at_ms - created_at_ms FROM uploads WHERE upload_id = :id"
    assert await harness.scalar(kept_ms, id=upload["id"]) == 24 * 3600 * 1000

    agent = await user.create(envVarKeys=["API_KEY", "TONE"])
    deployment = await user.deploy(agent["id"], uploadId=upload["id"])
    assert deployment["artifact"] == {
        "type": "modules",
        "checksum": upload["checksum"],
        "sizeBytes": upload["sizeBytes"],
    }
    command = await harness.command(DEPLOY, agent["id"], Deploy)
    assert command.main_module_name == "main.mjs"
    assert command.required_keys == ("API_KEY",)
    answer = await user.http.get(f"/v1/deployments/{deployment['id']}/source")
    modules = {it.pop("name"): it for it in ok(answer)["modules"]}
    assert set(modules) == set(files) - {MANIFEST}
    assert modules["main.mjs"] == {"content": MAIN}
    assert modules["x.wasm"]["encoding"] == "base64"


@pytest.mark.accept("7.5.http")
async def test_a_hostile_archive_is_refused_and_nothing_written(
    harness: Harness, user: User
) -> None:
    before = await kept(harness, user)
    wrong: dict[str, Any] = {}
    sender = user
    for number, (case, (made, _)) in enumerate(REFUSED.items()):
        if number % USERS_CASES == 0:
            sender = harness.user()
        answer = await sent(sender, made(), **{"Idempotency-Key": f"case-{number}"})
        error = problem(answer, 400, "INVALID_REQUEST")
        if not error["details"]["issues"][0]["message"]:
            wrong[case] = error
    assert wrong == {}
    assert await kept(harness, user) == before


@pytest.mark.accept("7.4.uploads")
async def test_what_is_sent_is_known_by_its_first_bytes(user: User) -> None:
    archive = zipped(fresh())
    for kind in ("application/gzip", "application/x-gzip", "application/octet-stream; a=b"):
        await uploaded(user, archive, **{"Content-Type": kind})
    for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await sent(user, archive, **{"Content-Type": kind})
        [issue] = problem(answer, 400, "INVALID_REQUEST")["details"]["issues"]
        assert issue["path"] == ["Content-Type"]


@pytest.mark.accept("7.4.uploads")
async def test_what_is_over_ten_mebibytes_is_not_read(harness: Harness, user: User) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_PACKED_BYTES // 65_536 + 1):
            yield bytes(65_536)

    before = await kept(harness, user)
    problem(await sent(user, bytes(MAX_PACKED_BYTES + 1)), 413, "PAYLOAD_TOO_LARGE")
    answer = await user.http.post("/v1/uploads", content=endless(), headers=ZIP)
    problem(answer, 413, "PAYLOAD_TOO_LARGE")
    assert await kept(harness, user) == before


@pytest.mark.accept("7.4.uploads")
async def test_the_largest_bundle_is_taken_and_read_again(harness: Harness, user: User) -> None:
    noise = secrets.token_bytes(9 * 1024 * 1024)
    archive = zipped(fresh(**{"x.wasm": WASM + noise, "pad.txt": b"\n" * (6 << 20)}))
    assert len(archive) < MAX_PACKED_BYTES
    upload = await uploaded(user, archive)
    agent = await user.create()
    deployment = await user.deploy(agent["id"], uploadId=upload["id"])
    path = f"/v1/deployments/{deployment['id']}/source"
    async with harness.client(**user.http.headers) as http:
        answer = await http.get(path, timeout=60)
    assert len(answer.content) == upload["sizeBytes"]


@pytest.mark.accept("7.4.uploads")
async def test_a_key_makes_one_upload(user: User) -> None:
    archive, key = zipped(fresh()), {"Idempotency-Key": secrets.token_hex(8)}
    first = await uploaded(user, archive, **key)
    assert await uploaded(user, archive, **key) == first
    problem(await sent(user, zipped(fresh()), **key), 409, "CONFLICT")
    assert (await uploaded(user, archive))["id"] != first["id"]


@pytest.mark.accept("7.4.uploads")
async def test_after_a_crash_the_key_makes_the_same_upload(isolated: Harness) -> None:
    harness, user = isolated, isolated.user()
    await uploaded(user, zipped(fresh()))
    await harness.execute("UPDATE uploads SET expires_at_ms = created_at_ms")
    archive, key = zipped(fresh()), {"Idempotency-Key": "k"}
    for point in ("api.stored", "api.uploaded"):
        harness.crash_file.write_text(point)
        with pytest.raises(httpx.TransportError):
            await sent(user, archive, **key)
        await harness.service.died()
        await harness.start()
        user = User(harness.client(**user.http.headers), user.id, harness)
    upload = await uploaded(user, archive, **key)
    route = "/v1/uploads"
    made_of = IdempotencyKey.of(
        "k",
        user_id=user.id,
        route=f"POST {route}",
        method="POST",
        path=route,
        body=archive,
        keys=ResponseKeys.parse(KEYS["RESPONSE_KEYS"]),
    )
    first_tried_at_ms = await harness.scalar(
        "SELECT first_tried_at_ms FROM idempotency_claims WHERE user_id = :user", user=user.id
    )
    entropy = made_of.digest(ids.UPLOAD)[: ids.ENTROPY_BYTES]
    assert upload["id"] == ids.new_id(ids.UPLOAD, first_tried_at_ms, entropy)
    assert upload["checksum"] in await stored(harness)
    # What had expired went when the api started.
    assert await harness.rows("SELECT upload_id FROM uploads") == [{"upload_id": upload["id"]}]


@pytest.mark.accept("7.4.deploy")
async def test_an_unknown_a_foreign_and_an_expired_upload_are_the_same(
    harness: Harness, user: User
) -> None:
    foreign = await uploaded(user, zipped(fresh()))
    other = harness.user()
    agent = await other.create()
    expired = await uploaded(other, zipped(fresh()))
    lost = await uploaded(other, zipped(fresh()))
    await harness.execute(
        "UPDATE uploads SET expires_at_ms = created_at_ms WHERE upload_id = :id", id=expired["id"]
    )
    store = await harness.bus.js.object_store("ARTIFACTS")
    await store.delete(lost["checksum"])
    found: list[dict[str, Any]] = []
    for upload_id in ("x", f"upl_{'z' * 26}", foreign["id"], expired["id"], lost["id"]):
        path = f"/v1/agents/{agent['id']}/deploy"
        answer = await other.http.post(path, json={"uploadId": upload_id})
        error = problem(answer, 404, "NOT_FOUND")
        del error["requestId"]
        found.append(error)
    assert found == [found[0]] * 5
    assert (await other.agent(agent["id"]))["status"] == "created"


@pytest.mark.accept("7.4.deploy")
async def test_a_repeated_deploy_needs_its_upload_no_more(harness: Harness, user: User) -> None:
    upload = await uploaded(user, zipped(fresh()))
    agent = await user.create()
    path, key = f"/v1/agents/{agent['id']}/deploy", {"Idempotency-Key": "k"}
    first = await user.http.post(path, json={"uploadId": upload["id"]}, headers=key)
    await harness.execute("DELETE FROM uploads WHERE upload_id = :id", id=upload["id"])
    again = await user.http.post(path, json={"uploadId": upload["id"]}, headers=key)
    assert ok(again, 202) == ok(first, 202)


@pytest.mark.accept("7.4.deploy")
async def test_what_does_not_fit_the_upload_is_refused_at_its_field(user: User) -> None:
    env = {"requiredKeys": ["API_KEY"], "optionalKeys": ["TONE"]}
    upload = await uploaded(user, zipped(fresh(**{MANIFEST: manifest(env=env)})))
    agent = await user.create(envVarKeys=["API_KEY"])
    path = f"/v1/agents/{agent['id']}/deploy"

    async def issues(**fields: Any) -> list[dict[str, Any]]:
        answer = await user.http.post(path, json={"uploadId": upload["id"], **fields})
        return problem(answer, 400, "INVALID_REQUEST")["details"]["issues"]

    assert [it["path"] for it in await issues(moduleCode=MAIN)] == [["uploadId"]]
    assert [it["path"] for it in await issues(mainModuleName="x.js")] == [["mainModuleName"]]
    [undeclared] = await issues()
    assert undeclared == {"path": ["uploadId"], "message": "The agent does not declare TONE."}
    ok(await user.http.patch(f"/v1/agents/{agent['id']}", json={"envVarKeys": ["API_KEY", "TONE"]}))
    await user.deploy(agent["id"], uploadId=upload["id"])


@pytest.mark.accept("7.4.uploads.bounds")
@pytest.mark.parametrize(
    ("count", "size", "limit_type"),
    [(uploads.MOST_LIVE, 1, "uploads"), (1, uploads.MOST_LIVE_BYTES, "uploadBytes")],
)
async def test_uploads_of_one_user_are_bounded(
    harness: Harness, user: User, count: int, size: int, limit_type: str
) -> None:
    await uploaded(user, zipped(fresh()))
    copied = await harness.execute(
        "INSERT INTO uploads SELECT upload_id || n, user_id, checksum, :size, manifest,"
        " module_names, created_at_ms, expires_at_ms FROM uploads, generate_series(2, :count) n"
        " WHERE user_id = :user",
        size=size,
        count=max(count, 2),
        user=user.id,
    )
    assert copied == max(count - 1, 1)
    before = await kept(harness, user)
    answer = await sent(user, zipped(fresh()))
    error = problem(answer, 429, "RATE_LIMITED")
    assert error["details"]["limitType"] == limit_type
    assert 0 < int(answer.headers["retry-after"]) <= 24 * 3600
    assert await kept(harness, user) == before

    await harness.execute("UPDATE uploads SET expires_at_ms = 1 WHERE user_id = :u", u=user.id)
    await uploaded(user, zipped(fresh()))


@pytest.mark.accept("7.4.uploads.bounds")
async def test_of_two_uploads_at_once_one_is_the_last(harness: Harness, user: User) -> None:
    await uploaded(user, zipped(fresh()))
    await harness.execute(
        "INSERT INTO uploads SELECT upload_id || n, user_id, checksum, size_bytes, manifest,"
        " module_names, created_at_ms, expires_at_ms FROM uploads, generate_series(3, :count) n"
        " WHERE user_id = :user",
        count=uploads.MOST_LIVE,
        user=user.id,
    )
    caller = Caller(user.id, EventMetadata(actor=user.id))

    async def recorded(packed: Packed) -> bool:
        """As each of two processes does it; one does one of a user's at a time."""
        try:
            async with harness.database.transaction() as connection:
                await uploads.record(connection, caller, new_id(ids.UPLOAD, now_ms()), packed)
        except RateLimited:
            return False
        return True

    async with held_table(harness, "uploads", until_waiting=2):
        made = [asyncio.create_task(recorded(read(zipped(fresh())))) for _ in range(2)]
    assert sorted(await asyncio.gather(*made)) == [False, True]


@pytest.mark.accept("7.4.uploads.kept")
async def test_an_upload_keeps_its_artifact_until_it_expires(isolated: Harness) -> None:
    harness, user = isolated, isolated.user()
    upload, other = await uploaded(user, zipped(fresh())), await uploaded(user, zipped(fresh()))
    agent = await user.create()
    await user.deploy(agent["id"], uploadId=other["id"])
    collector = Collector(harness.database, harness.bus, grace_s=GRACE_S)
    await a_day_later(harness)
    await collector.once()
    assert {upload["checksum"], other["checksum"]} <= await stored(harness)

    await harness.execute("UPDATE uploads SET expires_at_ms = created_at_ms")
    await collector.once()
    assert await stored(harness) == {other["checksum"]}, "a deployment needs the other"
