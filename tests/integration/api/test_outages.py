"""The api while what it stands on is away, and afterwards."""

import pytest
from webhost_contracts.events import AgentCreated

from tests.integration.api.harness import Harness, User, ok, problem
from tests.support.infra import Nats, Postgres


@pytest.mark.accept("4")
async def test_without_the_database_requests_are_unavailable_and_then_well(
    harness: Harness, user: User, postgres_server: Postgres
) -> None:
    agent = await user.create()
    postgres_server.kill()
    try:
        response = await user.http.get("/v1/me")
        assert problem(response, 503, "UNAVAILABLE")["retryable"] is True
    finally:
        postgres_server.start()
        await harness.service.until_ready()
    assert await user.agent(agent["id"]) == agent


@pytest.mark.accept("4")
async def test_what_is_decided_without_the_bus_is_relayed_afterwards(
    harness: Harness, user: User, nats_server: Nats
) -> None:
    ok(await user.http.get("/v1/me"))
    nats_server.kill()
    try:
        agent = await user.create()
    finally:
        nats_server.start()
        await harness.service.until_ready()
    await harness.fact(user.id, AgentCreated, agent["id"])
