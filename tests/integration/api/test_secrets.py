"""The routes of secrets, the tests playing the deployer: who may set what, and what is kept."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from nats.aio.msg import Msg
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import (
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentSucceeded,
    SecretSet,
)
from webhost_contracts.rpc import (
    ChangeSecretsReply,
    DeleteSecretsRequest,
    SecretsReply,
    SetSecretsRequest,
)
from webhost_kit.clock import now_ms
from webhost_kit.keys import base64url
from webhost_kit.sealing import Opener, Owner

from tests.integration.api.harness import SECRETS_KEY, Harness, User, ok, problem
from tests.integration.api.test_deploying import until_status
from tests.support.deadline import eventually

OPENER = Opener.parse(f"s1:{base64url(SECRETS_KEY)}", "PRIVATE")
MOST_BYTES = 5 * 1024
DONE = ChangeSecretsReply(version=1)
NOTHING_SET = SecretsReply(version=1, set_at_ms={})


@dataclass
class Deployer:
    """What the api asked for, and what is answered."""

    sets: list[SetSecretsRequest] = field(default_factory=list)
    deletes: list[DeleteSecretsRequest] = field(default_factory=list)
    reply: ChangeSecretsReply = DONE
    meanwhile: Callable[[], Awaitable[Any]] | None = None
    listed: SecretsReply = NOTHING_SET

    async def set(self, message: Msg) -> None:
        self.sets.append(wire.decode(message.data, SetSecretsRequest))
        if (act := self.meanwhile) is not None:
            self.meanwhile = None
            await act()
        await message.respond(wire.encode(self.reply))

    async def delete(self, message: Msg) -> None:
        self.deletes.append(wire.decode(message.data, DeleteSecretsRequest))
        await message.respond(wire.encode(self.reply))

    async def list(self, message: Msg) -> None:
        await message.respond(wire.encode(self.listed))


@asynccontextmanager
async def serving(harness: Harness) -> AsyncIterator[Deployer]:
    deployer = Deployer()
    subscriptions = [
        await harness.bus.client.subscribe(subject, cb=callback)
        for subject, callback in (
            (subjects.RPC_SET_SECRETS, deployer.set),
            (subjects.RPC_DELETE_SECRETS, deployer.delete),
            (subjects.RPC_SECRETS, deployer.list),
        )
    ]
    await harness.bus.client.flush()
    yield deployer
    for subscription in subscriptions:
        await subscription.unsubscribe()


@pytest.fixture
async def deployer(harness: Harness) -> AsyncIterator[Deployer]:
    async with serving(harness) as it:
        yield it


async def post(
    user: User, agent_id: str, values: dict[str, Any], key: str | None = None
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    path = f"/v1/agents/{agent_id}/secrets"
    return await user.http.post(path, json={"secrets": values}, headers=headers)


@pytest.mark.accept("7.3.routes")
async def test_declared_secrets_are_sealed_for_the_deployer(user: User, deployer: Deployer) -> None:
    agent = await user.create(envVarKeys=["KEY", "OTHER"])
    value = "é" * (MOST_BYTES // 2)
    assert (await post(user, agent["id"], {"KEY": value})).status_code == 204
    [request] = deployer.sets
    assert (request.user_id, request.agent_id) == (user.id, agent["id"])
    assert request.actor == f"user:{user.id}"
    assert request.changes_a_day is not None
    owner = Owner(user.id, agent["id"], "KEY")
    assert {k: OPENER.open(v, owner) for k, v in request.sealed.items()} == {"KEY": value}

    deployer.listed = SecretsReply(version=1, set_at_ms={"KEY": 5, "UNDECLARED": 6})
    path = f"/v1/agents/{agent['id']}/secrets"
    assert ok(await user.http.get(path)) == {
        "secrets": [
            {"key": "KEY", "isSet": True, "updatedAtMs": 5},
            {"key": "OTHER", "isSet": False},
        ]
    }
    assert (await user.http.delete(f"{path}/OTHER")).status_code == 204
    assert deployer.deletes[0].keys == ("OTHER",)
    assert problem(await user.http.delete(f"{path}/not%00one"), 400, "INVALID_REQUEST")


@pytest.mark.accept("7.3.routes")
@pytest.mark.parametrize(
    ("values", "path", "said"),
    [
        ({"OTHER": "secret-value"}, ["secrets", "OTHER"], "OTHER is not one of"),
        ({"lower": "secret-value"}, ["secrets", "lower", "[key]"], "should match"),
        ({"WEBHOST_X": "secret-value"}, ["secrets", "WEBHOST_X", "[key]"], "reserves"),
        ({"KEY": "secret-value" * 1000}, ["secrets", "KEY"], "at most 5120"),
        ({"KEY": "é" * 2561}, ["secrets", "KEY"], "at most 5120 bytes"),
        ({"KEY": "secret-value\x00"}, ["secrets", "KEY"], "NUL"),
        ({"KEY": ["secret-value"]}, ["secrets", "KEY"], "valid string"),
        ({"KEY": ""}, ["secrets", "KEY"], "at least 1"),
        ({}, ["secrets"], "at least 1"),
    ],
)
async def test_what_is_refused_is_named_and_not_repeated(
    user: User, deployer: Deployer, values: dict[str, Any], path: list[str], said: str
) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    answer = await post(user, agent["id"], values)
    [issue] = problem(answer, 400, "INVALID_REQUEST")["details"]["issues"]
    assert issue["path"] == path
    assert said in issue["message"]
    assert "secret-value" not in answer.text
    assert deployer.sets == []


@pytest.mark.accept("7.3.routes")
@pytest.mark.parametrize(
    "body", [rb'{"secrets": {"KEY": "\ud800"}}', rb'{"secrets": {"\ud800": "value"}}']
)
async def test_half_a_character_is_refused(user: User, deployer: Deployer, body: bytes) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    path = f"/v1/agents/{agent['id']}/secrets"
    headers = {"Content-Type": "application/json"}
    problem(await user.http.post(path, content=body, headers=headers), 400, "INVALID_REQUEST")
    assert deployer.sets == []


@pytest.mark.accept("7.3.routes")
async def test_anothers_agent_is_not_found(
    harness: Harness, user: User, deployer: Deployer
) -> None:
    theirs = (await harness.user().create(envVarKeys=["KEY"]))["id"]
    for agent_id in (theirs, f"{ids.AGENT}_{'0' * 26}"):
        path = f"/v1/agents/{agent_id}/secrets"
        problem(await post(user, agent_id, {"KEY": "v"}), 404, "NOT_FOUND")
        problem(await user.http.get(path), 404, "NOT_FOUND")
        problem(await user.http.delete(f"{path}/KEY"), 404, "NOT_FOUND")
    assert (deployer.sets, deployer.deletes) == ([], [])

    mine = await user.create(envVarKeys=["KEY"])
    deployer.reply = ChangeSecretsReply(gone=True)
    problem(await post(user, mine["id"], {"KEY": "v"}), 404, "NOT_FOUND")


@pytest.mark.accept("7.3.idempotent")
async def test_a_repeated_request_is_one_operation(
    harness: Harness, user: User, deployer: Deployer
) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    for _ in range(2):
        assert (await post(user, agent["id"], {"KEY": "v"}, "k")).status_code == 204
    assert len(deployer.sets) == 1
    problem(await post(user, agent["id"], {"KEY": "another"}, "k"), 409, "CONFLICT")

    # As if the first try had ended before its answer was recorded.
    await harness.execute("DELETE FROM idempotency WHERE user_id = :user", user=user.id)
    assert (await post(user, agent["id"], {"KEY": "v"}, "k")).status_code == 204
    first, second = deployer.sets
    assert first.operation == second.operation
    assert first.sealed != second.sealed
    for _ in range(2):
        await post(user, agent["id"], {"KEY": "v"})
    assert len({request.operation for request in deployer.sets}) == 3


@pytest.mark.accept("7.3.idempotent")
async def test_another_request_with_the_key_is_refused_before_anything_is_set(
    user: User, deployer: Deployer
) -> None:
    agent = await user.create(envVarKeys=["KEY", "OTHER"])
    answers: list[httpx.Response] = []

    async def another() -> None:
        answers.append(await post(user, agent["id"], {"OTHER": "v"}, "k"))

    deployer.meanwhile = another
    assert (await post(user, agent["id"], {"KEY": "v"}, "k")).status_code == 204
    problem(answers[0], 409, "CONFLICT")
    assert [tuple(request.sealed) for request in deployer.sets] == [("KEY",)]


@pytest.mark.accept("7.3.idempotent", "6.C3.keys")
async def test_without_room_for_its_key_nothing_is_set(
    harness: Harness, user: User, deployer: Deployer
) -> None:
    agent = await user.create(envVarKeys=["KEY"])

    async def fill() -> None:
        await harness.execute(
            "INSERT INTO idempotency SELECT :user, 'r', 'k' || n, 'r1', 'f', 200, '', :now"
            " FROM generate_series(1, 2000) n",
            user=user.id,
            now=now_ms(),
        )

    deployer.meanwhile = fill
    assert (await post(user, agent["id"], {"KEY": "v"}, "k")).status_code == 204
    problem(await post(user, agent["id"], {"KEY": "v"}, "new"), 429, "RATE_LIMITED")
    assert len(deployer.sets) == 1
    assert (await post(user, agent["id"], {"KEY": "v"}, "k")).status_code == 204


@pytest.mark.accept("7.3.bounded")
async def test_too_many_changes_wait_for_tomorrow(user: User, deployer: Deployer) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    deployer.reply = ChangeSecretsReply(full_until_ms=2**42)
    error = problem(await post(user, agent["id"], {"KEY": "v"}), 429, "RATE_LIMITED")
    assert error["details"]["limitType"] == "secretChangesPerDay"


@pytest.mark.accept("7.3.away")
async def test_without_the_deployer_only_secrets_are_unavailable(user: User) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    path = f"/v1/agents/{agent['id']}/secrets"
    problem(await post(user, agent["id"], {"KEY": "v"}), 503, "UNAVAILABLE")
    problem(await user.http.get(path), 503, "UNAVAILABLE")
    problem(await user.http.delete(f"{path}/KEY"), 503, "UNAVAILABLE")
    undeclared = await user.http.patch(f"/v1/agents/{agent['id']}", json={"envVarKeys": []})
    problem(undeclared, 503, "UNAVAILABLE")
    more = {"envVarKeys": ["KEY", "MORE"], "name": "renamed"}
    assert ok(await user.http.patch(f"/v1/agents/{agent['id']}", json=more))["agent"]


@pytest.mark.accept("7.3.undeclared")
async def test_a_secret_that_is_not_declared_any_more_is_deleted(
    user: User, deployer: Deployer
) -> None:
    await user.create(name="taken")
    agent = await user.create(envVarKeys=["A", "B", "C"])
    path = f"/v1/agents/{agent['id']}"
    refused = {"envVarKeys": [], "name": "taken"}
    problem(await user.http.patch(path, json=refused), 409, "CONFLICT")
    assert deployer.deletes == []
    ok(await user.http.patch(path, json={"envVarKeys": ["B", "D"]}))
    assert [request.keys for request in deployer.deletes] == [("A", "C")]
    assert (await user.agent(agent["id"]))["envVarKeys"] == ["B", "D"]


@pytest.mark.accept("7.3.lagging")
async def test_a_deployment_without_the_newest_secrets_is_not_activated(
    harness: Harness, user: User, deployer: Deployer
) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    older, newer = [await ready(harness, user, agent["id"]) for _ in range(2)]
    activate = f"/v1/agents/{agent['id']}/deployments/{older}/activate"
    assert (await post(user, agent["id"], {"KEY": "v"})).status_code == 204
    assert deployer.sets[0].active_deployment_id == newer
    lagging = problem(await user.http.post(activate), 409, "CONFLICT")
    assert lagging["retryable"] is True
    assert "newest secrets" in lagging["message"]

    await harness.given(user.id, older, applied(agent["id"], 1), version=5)
    await until_activated(user, activate)
    event = SecretSet(agent_id=agent["id"], keys=("KEY",))
    await harness.given(user.id, ids.secrets_of(agent["id"]), event, version=2)
    activate = f"/v1/agents/{agent['id']}/deployments/{newer}/activate"

    async def refused() -> bool:
        return (await user.http.post(activate)).status_code == 409

    await eventually(refused, "the fact to be known")
    await harness.given(user.id, newer, applied(agent["id"], 2), version=5)
    await until_activated(user, activate)


@pytest.mark.accept("7.3.lagging")
@pytest.mark.parametrize("by", ["delete", "patch"])
async def test_a_deployment_with_a_secret_that_was_deleted_is_not_activated(
    harness: Harness, user: User, deployer: Deployer, by: str
) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    older, _ = [await ready(harness, user, agent["id"]) for _ in range(2)]
    path = f"/v1/agents/{agent['id']}"
    deployer.reply = ChangeSecretsReply(version=2)
    if by == "delete":
        assert (await user.http.delete(f"{path}/secrets/KEY")).status_code == 204
    else:
        ok(await user.http.patch(path, json={"envVarKeys": []}))
    activate = f"{path}/deployments/{older}/activate"
    assert problem(await user.http.post(activate), 409, "CONFLICT")["retryable"] is True


@pytest.mark.accept("7.3.lost")
async def test_a_deployment_whose_script_is_gone_is_never_activated(
    harness: Harness, user: User, deployer: Deployer
) -> None:
    agent = await user.create(envVarKeys=["KEY"])
    older, _ = [await ready(harness, user, agent["id"]) for _ in range(2)]
    assert (await post(user, agent["id"], {"KEY": "v"})).status_code == 204
    lost = DeploymentScriptLost(agent_id=agent["id"])
    await harness.given(user.id, older, lost, version=5)
    path = f"/v1/agents/{agent['id']}/deployments/{older}/activate"

    async def final() -> bool:
        return problem(await user.http.post(path), 409, "CONFLICT")["retryable"] is False

    await eventually(final, "the loss to be known")
    assert "deploy again" in problem(await user.http.post(path), 409, "CONFLICT")["message"]


def applied(agent_id: str, version: int) -> DeploymentSecretsApplied:
    return DeploymentSecretsApplied(agent_id=agent_id, secrets_version=version)


async def ready(harness: Harness, user: User, agent_id: str) -> str:
    deployment = (await user.deploy(agent_id))["id"]
    event = DeploymentSucceeded(agent_id=agent_id, worker_name="w", invoke_url="https://w/i")
    await harness.given(user.id, deployment, event, version=4)
    await until_status(user, deployment, "active")
    return deployment


async def until_activated(user: User, path: str) -> None:
    async def activated() -> bool:
        return (await user.http.post(path)).status_code == 200

    await eventually(activated, "the deployment to be brought up")
