"""Where at Cloudflare deployments are: in the account, or in a dispatch namespace.

Consumes: `rpc.deployer.placement`, and the deployer's own rows.
Guarantees: reads only.
"""

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from webhost_contracts.rpc import Place, PlacedAgent, PlacementReply, PlacementRequest
from webhost_kit.database.engine import Database

from webhost_deployer.model import FINAL, Phase
from webhost_deployer.tables import HAS_SCRIPT, STAYS, deployments

LISTED = 1_000
"""How many agents a reply has: it stays well below a message's maximum size."""

_place = deployments.c.state["started"]["namespace"].astext
_there = deployments.c.phase.not_in(FINAL) & HAS_SCRIPT


class Placements:
    """Replies to operators. `namespace` is where new deployments are made."""

    def __init__(self, database: Database, namespace: str | None) -> None:
        self._database = database
        self._namespace = namespace

    async def reply(self, _: PlacementRequest) -> PlacementReply:
        """Count deployments by place, and list the agents whose newest is not in the one in use."""
        agent_id, user_id = deployments.c.agent_id, deployments.c.user_id
        counts = (
            select(_place, func.count(), func.count(agent_id.distinct()))
            .where(_there)
            .group_by(_place)
            .order_by(_place.nulls_first())
        )
        newest = (
            select(user_id, agent_id, _place.label("place"))
            .where(_there, deployments.c.phase == Phase.LIVE, STAYS)
            .ext(distinct_on(agent_id))
            .order_by(agent_id, deployments.c.deployment_id.desc())
            .subquery()
        )
        elsewhere = (
            select(newest.c.user_id, newest.c.agent_id)
            .where(newest.c.place.is_distinct_from(self._namespace))
            .order_by(newest.c.user_id, newest.c.agent_id)
        )
        async with self._database.transaction() as connection:
            places = [
                Place(namespace=row[0], deployments=row[1], agents=row[2])
                for row in await connection.execute(counts)
            ]
            agents = [
                PlacedAgent(user_id=row[0], agent_id=row[1])
                for row in await connection.execute(elsewhere)
            ]
        return PlacementReply(
            namespace=self._namespace,
            places=tuple(places),
            elsewhere=tuple(agents[:LISTED]),
            left_out=max(0, len(agents) - LISTED),
        )
