"""How Cloudflare's errors are classified; each was seen in practice."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from webhost_contracts.events import DeploymentStepSucceeded
from webhost_deployer import store
from webhost_deployer.app import cloudflare_of
from webhost_deployer.capacity import Capacity
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.provider import Cloudflare
from webhost_deployer.cloudflare.rate_limiter import REFILL_PER_S
from webhost_deployer.decisions import begin
from webhost_deployer.executor import Executor
from webhost_deployer.model import Deployment, Phase, Step
from webhost_deployer.provider import ProviderError
from webhost_deployer.secrets.values import SecretValues
from webhost_deployer.settings import Settings
from webhost_deployer.steps import Steps
from webhost_deployer.tables import rate_limits
from webhost_kit.bus import artifacts
from webhost_kit.bus.connection import connect
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.database.migrations import upgrade
from webhost_kit.process.service import Service
from webhost_kit.sealing import Opener

from tests.support.serving import serving
from tests.unit.deployer.samples import AGENT, COMMAND, DEPLOYMENT, begun
from tests.unit.deployer.test_settings import GOOD, ROUTED

PAGE = HTMLResponse("<h1>522</h1>", 522)


def refusal(status: int, code: int, message: str) -> Response:
    errors = [{"code": code, "message": message}]
    return JSONResponse(
        {"success": False, "errors": errors, "messages": [], "result": None}, status
    )


class Api:
    """Answers every call with `answer`."""

    answer: Response = PAGE

    async def __call__(self, scope, receive, send):
        await Request(scope, receive).body()
        await self.answer(scope, receive, send)


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def cloudflare(
    api: Api, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Cloudflare, CloudflareApi]]:
    upgrade(database_url, "webhost_deployer")
    async with serving(api) as base_url, aclosing(Service("deployer")) as service:
        local = {"WEBHOST_LOCAL_STACK": "true", "CLOUDFLARE_API_BASE_URL": base_url}
        for name, value in (GOOD | ROUTED | local).items():
            monkeypatch.setenv(name, value)
        database = service.add("database", Database(database_url))
        yield cloudflare_of(service, Settings(), database)


@pytest.fixture
async def provider(cloudflare: tuple[Cloudflare, CloudflareApi]) -> Cloudflare:
    return cloudflare[0]


@pytest.fixture
async def client(cloudflare: tuple[Cloudflare, CloudflareApi]) -> CloudflareApi:
    return cloudflare[1]


@pytest.mark.parametrize(
    ("answer", "code", "transient"),
    [
        (PAGE, None, True),
        (HTMLResponse("<h1>fine</h1>", 200), None, True),
        (HTMLResponse("<h1>forbidden</h1>", 403), None, True),
        (refusal(500, 10013, "workers.api.error.unknown"), "10013", True),
        (refusal(502, 1, "Bad gateway"), "1", True),
        (JSONResponse({"success": False, "errors": [{"code": None}]}, 403), "403", True),
        (refusal(403, 10000, "Authentication error"), "10000", False),
        (refusal(403, 9109, "Unauthorized to access requested resource"), "9109", False),
        (refusal(400, 6003, "Invalid request headers"), "6003", False),
        (refusal(401, 1000, "Invalid API Token"), "1000", False),
        (refusal(401, 10000, "Authentication error"), "10000", False),
        (refusal(400, 10019, "The script does not exist"), "10019", True),
        (refusal(400, 10022, "Invalid route pattern"), "10022", False),
    ],
)
async def test_what_may_be_tried_again(
    provider: Cloudflare, api: Api, answer: Response, code: str | None, transient: bool
) -> None:
    api.answer = answer
    with pytest.raises(ProviderError) as raised:
        await provider.route(begun())
    assert (raised.value.code, raised.value.transient) == (code, transient)
    assert raised.value.endpoint == "POST /workers/routes"


@pytest.mark.parametrize(
    "answer",
    [
        PAGE,
        Response(status_code=204),
        JSONResponse({"success": True, "result": None}),
        JSONResponse({"success": True}),
        JSONResponse([]),
    ],
)
async def test_an_unreadable_listing_is_not_an_empty_one(
    provider: Cloudflare, api: Api, answer: Response
) -> None:
    api.answer = answer
    with pytest.raises(ProviderError) as raised:
        await provider.remove_script(begun())
    assert raised.value.transient


async def test_too_many_calls_are_a_pause_for_every_deployer(
    client: CloudflareApi, api: Api
) -> None:
    api.answer = refusal(429, 971, "Please wait")
    api.answer.headers["Retry-After"] = "2"
    with pytest.raises(ProviderError) as raised:
        await client.list_routes()
    assert (raised.value.code, raised.value.transient) == ("971", True)

    api.answer = JSONResponse({"success": True, "result": []})
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await client.list_routes() == []
    assert 1.5 < loop.time() - began < 10


@pytest.mark.accept("8.api-limit")
@pytest.mark.parametrize("said", [None, "soon", "100000"])
async def test_without_a_usable_time_the_pause_is_cloudflares_own(
    client: CloudflareApi, api: Api, database_url: str, said: str | None
) -> None:
    """Five minutes, no less and no more."""
    api.answer = refusal(429, 971, "Please wait")
    if said is not None:
        api.answer.headers["Retry-After"] = said
    with pytest.raises(ProviderError):
        await client.list_routes()
    database = Database(database_url)
    async with database.transaction() as connection:
        [tokens] = await connection.scalars(sa.select(rate_limits.c.tokens))
    await database.close()
    assert (1 - tokens) / REFILL_PER_S == pytest.approx(300, abs=1)


@pytest.mark.parametrize("character", ["\x00", "\ud800"])
async def test_words_that_cannot_be_stored_fail_the_deployment_all_the_same(
    provider: Cloudflare, api: Api, database_url: str, nats_account: str, character: str
) -> None:
    errors = [{"code": 10021, "message": f"Uncaught Error: {character}"}]
    said = json.dumps({"success": False, "errors": errors, "messages": [], "result": None})
    api.answer = Response(said, 400, media_type="application/json")
    database = Database(database_url)
    bus = await connect(nats_account, "test")
    reached = (Step.VALIDATE, Step.SESSION_STORE, Step.UPLOAD)
    async with database.transaction() as connection:
        done = [
            DeploymentStepSucceeded(agent_id=AGENT, step=step, attempt=1, started_at_ms=1)
            for step in reached
        ]
        new = Deployment(id=DEPLOYMENT, user_id=COMMAND.user_id, agent_id=AGENT)
        await store.append(
            connection, new, [*begin(COMMAND, key_version=1, namespace=None), *done], now_ms()
        )

    work = Executor(
        database,
        Steps(
            {"cloudflare": provider},
            partial(artifacts.read, bus),
            Capacity(database, 1),
            SecretValues(database, Opener({})),
        ),
    )
    async with held(database_url, "agent") as lock:
        assert lock is not None
        await work.execute(AGENT, lock)

    async with database.transaction() as connection:
        state = await store.load(connection, DEPLOYMENT)
    assert state is not None
    assert state.phase is Phase.COMPENSATING
    assert state.failure is not None
    assert state.failure.provider_message == "Uncaught Error: ?"
    await bus.close()
    await database.close()
