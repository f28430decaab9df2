"""What a user can still do whose account an operator disabled."""

from typing import Any, cast

import pytest
from webhost_api.commands import Commands
from webhost_api.handlers import Caller, request_deployment
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    DeploymentStarted,
    DeploymentSucceeded,
    TierChanged,
)
from webhost_kit.errors import Unauthorized
from webhost_kit.eventsourcing.store import EventMetadata

from tests.integration.api.harness import Harness, User, ok, problem
from tests.support.bundles import good_files, zipped
from tests.support.deadline import eventually
from tests.support.facts import deployment_started
from tests.unit.api.builders import TIERS, wish

ZIP = {"Content-Type": "application/zip"}


async def until_create_answers(user: User, status: int) -> None:
    async def answers() -> bool:
        made = await user.http.post("/v1/agents", json={"name": "probe"})
        if made.status_code == 201:
            await user.http.delete(f"/v1/agents/{made.json()['agent']['id']}")
        return made.status_code == status

    await eventually(answers, f"an agent's creation to be answered {status}")


async def deployed(harness: Harness, user: User) -> tuple[str, str]:
    """An agent with a deployment that its pointer names."""
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    facts: tuple[DeploymentStarted, DeploymentSucceeded] = (
        deployment_started(agent["id"]),
        DeploymentSucceeded(agent_id=agent["id"], worker_name="w", invoke_url="https://w.example"),
    )
    for version, fact in enumerate(facts, start=1):
        await harness.given(user.id, deployment["id"], fact, version=version)

    async def active() -> bool:
        return (await user.agent(agent["id"]))["status"] == "active"

    await eventually(active, "the deployment to be active")
    return agent["id"], deployment["id"]


@pytest.mark.accept("7.account-disabled")
async def test_a_disabled_account_makes_and_deploys_nothing_and_reads_all(
    harness: Harness, user: User
) -> None:
    # given a user with a deployed agent, whose account is disabled
    agent_id, deployment_id = await deployed(harness, user)
    key = await user.key("admin")
    await harness.given(user.id, user.id, AccountDisabled(source="operator:kim"))
    await until_create_answers(user, 403)
    # then what makes something, or changes what runs, is refused
    activate = f"/v1/agents/{agent_id}/deployments/{deployment_id}/activate"
    for path in (f"/v1/agents/{agent_id}/deploy", f"/v1/agents/{agent_id}/deployments", activate):
        refused = problem(await user.http.post(path), 403, "UNAUTHORIZED")
        assert refused["details"] == {"reason": "account_disabled"}
        assert not refused["retryable"]
    # with an API key too
    upload: dict[str, Any] = {"content": zipped(good_files()), "headers": ZIP}
    secret: dict[str, Any] = {"json": {"secrets": {"KEY": "x"}}}
    another: dict[str, Any] = {"json": {"name": "another", "scopes": ["read"]}}
    for client, path, request in (
        (user.http, "/v1/uploads", upload),
        (key.http, "/v1/uploads", upload),
        (user.http, f"/v1/agents/{agent_id}/secrets", secret),
        (key.http, f"/v1/agents/{agent_id}/secrets", secret),
        (user.http, "/v1/keys", another),
    ):
        refused = problem(await client.post(path, **request), 403, "UNAUTHORIZED")
        assert refused["details"] == {"reason": "account_disabled"}
    # and an agent of nobody's is still not found
    missing = f"/v1/agents/agt_{'z' * 26}/deploy"
    problem(await user.http.post(missing), 404, "NOT_FOUND")
    # and the rest goes on
    for path in ("/v1/me", "/v1/agents", f"/v1/agents/{agent_id}/deployments"):
        ok(await user.http.get(path))
    for change in ("disable", "enable"):
        ok(await user.http.post(f"/v1/agents/{agent_id}/{change}"))
    ok(await user.http.patch(f"/v1/agents/{agent_id}", json={"description": "mine"}))
    # when it is enabled again, everything is possible
    await harness.given(user.id, user.id, AccountEnabled(source="operator:kim"), version=2)
    await until_create_answers(user, 201)
    ok(await user.http.post(activate))
    await user.deploy(agent_id)


@pytest.mark.accept("7.account-disabled")
async def test_an_account_that_is_disabled_while_its_code_is_stored_deploys_nothing(
    harness: Harness, user: User
) -> None:
    """What is decided then is decided in one transaction with the deployment's fact."""
    agent_id = (await user.create())["id"]
    await harness.execute("INSERT INTO accounts VALUES (:u, 'free', 1, true)", u=user.id)
    caller = Caller(user.id, EventMetadata(actor=user.id))
    async with harness.database.transaction() as connection:
        with pytest.raises(Unauthorized):
            await request_deployment(
                connection, caller, TIERS, cast(Commands, None), agent_id, wish(1)
            )
    assert (await user.agent(agent_id))["status"] == "created"


@pytest.mark.accept("7.account-disabled")
async def test_status_and_tier_come_in_any_order_and_before_their_user(harness: Harness) -> None:
    # given facts of an account whose user has never been here
    user = harness.user()
    disabled, enabled = AccountDisabled(source="test"), AccountEnabled(source="test")
    pro = TierChanged(tier="pro", previous_tier="free", source="test")
    await harness.given(user.id, user.id, disabled, version=2)
    # then the user is on the tier of everybody, and disabled
    await until_create_answers(user, 403)
    assert ok(await user.http.get("/v1/me"))["user"]["tier"] == "free"
    # when an older fact comes late, and a tier
    await harness.given(user.id, user.id, enabled, version=1)
    await harness.given(user.id, user.id, pro, version=3)

    async def on_tier() -> bool:
        return ok(await user.http.get("/v1/me"))["user"]["tier"] == "pro"

    await eventually(on_tier, "the tier")
    # then the account is still disabled
    problem(await user.http.post("/v1/agents", json={"name": "a"}), 403, "UNAUTHORIZED")
    await harness.given(user.id, user.id, enabled, version=4)
    await until_create_answers(user, 201)
    assert ok(await user.http.get("/v1/me"))["user"]["tier"] == "pro"
