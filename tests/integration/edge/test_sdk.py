"""The official Python SDK, unmodified, against the local edge."""

import cloudflare
import pytest

from tests.support.bundles import WASM
from tests.support.edge import Edge

KINDS = """
import { name } from "./lib/name.mjs";
import text from "./t.txt";
import data from "./d.bin";
import module from "./w.wasm";
export default { fetch: () => Response.json([
  name, text, data.byteLength, module instanceof WebAssembly.Module,
]) };
"""

SECRET_ECHO = """
export default { fetch(request, env) {
  return new Response(`VERSION ${env.TOKEN} ${new URL(request.url).pathname}`);
} };
"""


@pytest.mark.accept("7")
async def test_a_script_lives_from_upload_to_delete(edge: Edge) -> None:
    scripts, account = edge.sdk.workers.scripts, edge.account_id
    secret = {"type": "secret_text", "name": "TOKEN", "text": 'q"\\\n\té'}
    tags = ["installation:one", "agent:a"]
    await edge.upload("life", SECRET_ECHO, bindings=[secret], tags=tags)
    await edge.publish("life")

    assert await edge.get("life", "/x") == (200, 'VERSION q"\\\n\té /x')
    async with edge.http.get(f"{edge.origin}/v1/x", headers=edge.host("life")) as own:
        assert (await own.text()).endswith("/v1/x"), "the script's own host is all the script's"

    listed = await scripts.list(account_id=account, tags="installation:one:yes")
    assert [script.id for script in listed.result] == ["life"]
    assert not (
        await scripts.list(account_id=account, tags="installation:one:no,agent:a:yes")
    ).result
    settings = await scripts.script_and_version_settings.get("life", account_id=account)
    assert settings.tags == tags
    assert settings.bindings is not None
    assert "text" not in settings.bindings[0].to_dict()

    await edge.upload("life", SECRET_ECHO.replace("VERSION", "SECOND"), bindings=[secret])
    assert (await edge.get("life"))[1].startswith("SECOND")

    await scripts.delete("life", account_id=account, force=True)
    assert (await edge.get("life"))[0] == 404
    with pytest.raises(cloudflare.NotFoundError, match="10007"):
        await scripts.delete("life", account_id=account)


@pytest.mark.accept("7")
async def test_a_secret_set_later_is_visible_inside(edge: Edge) -> None:
    secrets, account = edge.sdk.workers.scripts.secrets, edge.account_id
    await edge.upload("secretive", SECRET_ECHO)
    await edge.publish("secretive")
    assert (await edge.get("secretive"))[1] == "VERSION undefined /"
    await secrets.update(
        "secretive", account_id=account, name="TOKEN", text="hush", type="secret_text"
    )
    assert (await edge.get("secretive"))[1] == "VERSION hush /"
    listed = await secrets.list("secretive", account_id=account)
    assert [secret.name for secret in listed.result] == ["TOKEN"]
    await secrets.delete("TOKEN", account_id=account, script_name="secretive")
    assert (await edge.get("secretive"))[1] == "VERSION undefined /"
    with pytest.raises(cloudflare.BadRequestError, match="5 KiB"):
        await secrets.update(
            "secretive", account_id=account, name="BIG", text="x" * 5121, type="secret_text"
        )


BULK = {
    "TOKEN": {"type": "secret_text", "name": "TOKEN", "text": "new"},
    "OTHER": {"type": "secret_text", "name": "OTHER", "text": "other"},
    "GONE": None,
    "NEVER_THERE": None,
}


@pytest.mark.accept("7.3.edge")
async def test_secrets_are_changed_in_one_call(edge: Edge) -> None:
    secrets, account = edge.sdk.workers.scripts.secrets, edge.account_id
    old = [{"type": "secret_text", "name": name, "text": "old"} for name in ("TOKEN", "GONE")]
    kept = [{"type": "plain_text", "name": "PLAIN", "text": "kept"}]
    await edge.upload("bulk", SECRET_ECHO, bindings=[*old, *kept])
    await edge.publish("bulk")
    assert (await edge.get("bulk"))[1] == "VERSION old /"
    await secrets.bulk_update("bulk", account_id=account, secrets=BULK)
    assert (await edge.get("bulk"))[1] == "VERSION new /"
    listed = await secrets.list("bulk", account_id=account)
    assert {secret.name for secret in listed.result} == {"TOKEN", "OTHER"}
    settings = await edge.sdk.workers.scripts.script_and_version_settings.get(
        "bulk", account_id=account
    )
    assert {binding.name for binding in settings.bindings or ()} == {"TOKEN", "OTHER", "PLAIN"}
    with pytest.raises(cloudflare.NotFoundError, match="10007"):
        await secrets.bulk_update("nobody", account_id=account, secrets=BULK)
    many = {f"S{n}": {"type": "secret_text", "name": f"S{n}", "text": "x"} for n in range(101)}
    with pytest.raises(cloudflare.BadRequestError, match="At most 100"):
        await secrets.bulk_update("bulk", account_id=account, secrets=many)

    await edge.upload("bulk", SECRET_ECHO, bindings=kept, keep_bindings=[])
    assert (await edge.get("bulk"))[1] == "VERSION undefined /", "an upload keeps what it names"


@pytest.mark.accept("7.3.edge")
async def test_a_user_workers_secrets_are_put_changed_and_deleted(edge: Edge) -> None:
    namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
    await namespaces.create(account_id=edge.account_id, name="secretive")
    place = {"account_id": edge.account_id, "dispatch_namespace": "secretive"}
    await namespaces.scripts.update(
        "user",
        **place,
        metadata={"main_module": "main.mjs", "compatibility_date": "2026-01-01"},
        files=[("main.mjs", SECRET_ECHO.encode(), "application/javascript+module")],
    )
    space = {"type": "dispatch_namespace", "name": "SPACE", "namespace": "secretive"}
    dispatch = "export default { fetch: (request, env) => env.SPACE.get('user').fetch(request) };"
    await edge.upload("dispatcher", dispatch, bindings=[space])
    await edge.publish("dispatcher")
    secrets = namespaces.scripts.secrets
    token = {"name": "TOKEN", "text": "hush", "type": "secret_text"}
    await secrets.update("user", **place, **token)
    assert (await edge.get("dispatcher"))[1] == "VERSION hush /"
    await secrets.bulk_update("user", **place, secrets=BULK)
    assert (await edge.get("dispatcher"))[1] == "VERSION new /"
    await secrets.delete("TOKEN", **place, script_name="user")
    assert (await edge.get("dispatcher"))[1] == "VERSION undefined /"
    found = [secret.name async for secret in secrets.list("user", **place)]
    assert found == ["OTHER"]


async def test_a_route_leads_to_its_script(edge: Edge) -> None:
    routes, zone = edge.sdk.workers.routes, edge.zone_id
    await edge.upload("routed", SECRET_ECHO)
    url = f"{edge.origin}/dep/dep_1/invoke"
    pattern = "agents.example.com/dep/dep_1/*"
    route = await routes.create(zone_id=zone, pattern=pattern, script="routed")
    with pytest.raises(cloudflare.ConflictError, match="10020"):
        await routes.create(zone_id=zone, pattern=pattern, script="routed")
    for host, status in (
        (None, 200),
        ("agents.example.com", 200),
        ("other.example.com", 404),
    ):
        async with edge.http.get(url, headers={"Host": host} if host else {}) as response:
            assert response.status == status, host
    assert [r.pattern for r in (await routes.list(zone_id=zone)).result] == [pattern]
    assert (await edge.get("routed"))[0] == 404, "its own host was never enabled"

    await routes.delete(route.id, zone_id=zone)
    async with edge.http.get(url) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "NOT_FOUND"


@pytest.mark.accept("7")
async def test_a_bad_token_is_refused_as_cloudflare_does(edge: Edge) -> None:
    stranger = cloudflare.AsyncCloudflare(
        api_token="wrong", base_url=edge.api_base_url, max_retries=0
    )
    async with stranger:
        with pytest.raises(cloudflare.AuthenticationError, match="10000"):
            await stranger.workers.scripts.list(account_id=edge.account_id)
    with pytest.raises(cloudflare.PermissionDeniedError, match="10000"):
        await edge.sdk.workers.scripts.list(account_id="another-account")
    with pytest.raises(cloudflare.NotFoundError, match="7003"):
        await edge.sdk.workers.routes.list(zone_id="another-zone")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("export default { fetch( { };", "SyntaxError"),
        ('import "./missing.mjs"; export default {};', "missing.mjs"),
        ('throw new Error("boom at /top"); export default {};', "boom"),
    ],
)
async def test_broken_code_is_refused_and_the_old_version_serves(
    edge: Edge, code: str, said: str
) -> None:
    await edge.upload("fragile", SECRET_ECHO)
    await edge.publish("fragile")
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await edge.upload("fragile", code)
    assert refused.value.errors[0].code == 10021
    assert said in str(refused.value)
    assert "/work" not in str(refused.value)
    assert (await edge.get("fragile"))[1].startswith("VERSION")


async def test_what_cloudflare_refuses_is_refused(edge: Edge) -> None:
    with pytest.raises(cloudflare.BadRequestError, match="tags"):
        await edge.upload("tagged", SECRET_ECHO, tags=[f"t{i}" for i in range(9)])
    with pytest.raises(cloudflare.BadRequestError, match="name"):
        await edge.upload("Upper", SECRET_ECHO)
    binding = {"type": "service", "name": "OTHER", "service": "nowhere"}
    with pytest.raises(cloudflare.BadRequestError, match="10143"):
        await edge.upload("caller", SECRET_ECHO, bindings=[binding])
    with pytest.raises(cloudflare.BadRequestError, match="future"):
        await edge.upload("early", SECRET_ECHO, compatibility_date="2999-01-01")
    migrations = {"new_tag": "v1", "new_sqlite_classes": ["Missing"]}
    with pytest.raises(cloudflare.BadRequestError, match="not exported"):
        await edge.upload("objects", SECRET_ECHO, migrations=migrations)
    binding = {"type": "durable_object_namespace", "name": "O", "class_name": "Missing"}
    with pytest.raises(cloudflare.BadRequestError, match="10061"):
        await edge.upload("objects", SECRET_ECHO, bindings=[binding])
    with pytest.raises(cloudflare.NotFoundError):
        await edge.sdk.workers.scripts.delete("tagged", account_id=edge.account_id)


@pytest.mark.accept("7.4.kinds")
async def test_modules_are_of_the_kinds_that_cloudflare_documents(edge: Edge) -> None:
    async def upload(*more: tuple[str, bytes, str]) -> None:
        esm = "application/javascript+module"
        await edge.sdk.workers.scripts.update(
            "kinds",
            account_id=edge.account_id,
            metadata={"main_module": "main.mjs", "compatibility_date": "2026-01-01"},
            files=[
                ("main.mjs", KINDS.encode(), esm),
                ("lib/name.mjs", b'export const name = "lib";', esm),
                ("t.txt", b"text", "text/plain"),
                ("d.bin", b"data", "application/octet-stream"),
                ("w.wasm", WASM, "application/wasm"),
                *more,
            ],
        )

    await upload()
    await edge.publish("kinds")
    assert await edge.get("kinds") == (200, '["lib","text",4,true]')
    with pytest.raises(cloudflare.BadRequestError, match="Unsupported content type"):
        await upload(("d.json", b"{}", "application/json"))
