"""A deployment of another of one's agents is not found; for other users' see tests/e2e."""

from tests.integration.api.harness import User, problem


async def test_ones_own_deployment_of_another_agent_is_not_found(user: User) -> None:
    one, other = await user.create(), await user.create()
    deployment = await user.deploy(one["id"])
    path = f"/v1/agents/{other['id']}/deployments/{deployment['id']}/activate"
    problem(await user.http.post(path), 404, "NOT_FOUND")
