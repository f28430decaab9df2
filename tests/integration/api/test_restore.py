"""The api after its database was restored to before a user's first request."""

import httpx
import pytest
from webhost_api import queries
from webhost_api.decisions import DescribeAgent
from webhost_api.handlers import Caller, create_agent
from webhost_contracts.events import UserRegistered
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.store import EventMetadata

from tests.integration.api.harness import Harness, ok, problem
from tests.support.backup import a_copy
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres


@pytest.mark.accept("A1")
@pytest.mark.parametrize("request_", [("GET", "/v1/me", 200), ("POST", "/v1/agents", 201)])
async def test_a_user_whose_registration_was_lost_is_registered_again(
    own_harness: Harness,
    nats_server: Nats,
    postgres_server: Postgres,
    request_: tuple[str, str, int],
) -> None:
    """Its fact was on no stream yet, so that nothing takes it back."""
    harness, (method, path, status) = own_harness, request_
    user = harness.user("alice")
    with a_copy(postgres_server, harness.dsn) as put_back:
        await harness.service.until_ready()
        nats_server.kill()
        try:
            assert ok(await user.http.get("/v1/me"))["user"]["subject"] == "alice"
            put_back()
        finally:
            nats_server.start()

    async def answers() -> bool:
        body = {"name": "a"} if method == "POST" else None
        answer: httpx.Response = await user.http.request(method, path, json=body)
        if answer.status_code == 503:
            assert problem(answer, 503, "UNAVAILABLE")["retryable"]
            return False
        ok(answer, status)
        return True

    await eventually(answers, "the user to be known again", seconds=20)
    assert await harness.scalar("SELECT count(*) FROM users WHERE user_id = :u", u=user.id) == 1
    registered = await harness.fact(user.id, UserRegistered, user.id)
    assert registered.version == 1


@pytest.mark.accept("A1")
async def test_nothing_is_made_for_a_user_without_a_row(database_url: str) -> None:
    """A request that was let in just before the restore is asked to come again."""
    upgrade(database_url, "webhost_api")
    database = Database(database_url)
    caller = Caller("usr_1", EventMetadata(actor="test"))
    async with database.transaction() as connection:
        with pytest.raises(Unavailable):
            await create_agent(connection, caller, {}, "agt_1", DescribeAgent(name="a"))
        with pytest.raises(Unavailable):
            await queries.user(connection, "usr_1")
    await database.close()
