"""Where an operator is shown that deployments are."""

import pytest
from webhost_contracts.events import DeploymentSucceeded
from webhost_contracts.rpc import Place, PlacedAgent, PlacementReply, PlacementRequest
from webhost_deployer.placement import Placements

from tests.integration.deployer.conftest import on_both_layouts
from tests.integration.deployer.harness import Harness, new_agent


async def placed(harness: Harness, namespace: str | None) -> PlacementReply:
    """What is shown where new deployments go there."""
    return await Placements(harness.database, namespace).reply(PlacementRequest())


@on_both_layouts
@pytest.mark.accept("10.placement")
async def test_deployments_are_counted_where_they_are(harness: Harness) -> None:
    await (await harness.start()).until_ready()
    assert await placed(harness, harness.namespace) == PlacementReply(namespace=harness.namespace)
    agent, other = new_agent(), new_agent()
    for each in (agent, agent, other):
        event = await harness.until_stated(await harness.deploy(each))
        assert isinstance(event, DeploymentSucceeded), event
    here = (Place(namespace=harness.namespace, deployments=3, agents=2),)
    assert await placed(harness, harness.namespace) == PlacementReply(
        namespace=harness.namespace, places=here
    )
    found = await placed(harness, "elsewhere")
    assert (found.namespace, found.places, found.left_out) == ("elsewhere", here, 0)
    assert {one.agent_id for one in found.elsewhere} == {agent, other}, "each once"
    assert all(isinstance(one, PlacedAgent) and one.user_id for one in found.elsewhere)
