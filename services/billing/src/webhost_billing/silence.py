"""Which agents' calls are counted without a report of their Workers: an operator's list."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.rpc import SilentAgent, SilentAgentsReply, SilentAgentsRequest

from webhost_billing.queries import LIVE
from webhost_billing.tables import usage_events

HOUR_MS = 3_600_000
MOST_HOURS = 7 * 24
MOST_AGENTS = 1_000
ON_THE_WAY_MS = 60_000
"""A Worker's three tries are over by then."""


async def silent_agents(
    connection: AsyncConnection, request: SilentAgentsRequest, now_ms: int
) -> SilentAgentsReply:
    """Return the agents whose calls lack a report most often; see the request."""
    table = usage_events.c
    hours = min(max(request.hours, 1), MOST_HOURS)
    silent = sa.func.count().filter(table.source == "gateway").label("silent")
    calls = sa.func.count().label("calls")
    of_agents = (
        sa.select(table.user_id, table.agent_id, calls, silent)
        .where(
            table.generation == LIVE,
            table.at_ms >= now_ms - hours * HOUR_MS,
            table.at_ms < now_ms - ON_THE_WAY_MS,
            table.source != "worker",
        )
        .group_by(table.user_id, table.agent_id)
        .cte("of_agents")
        .c
    )
    share = sa.cast(of_agents.silent, sa.Numeric) / of_agents.calls
    listed = await connection.execute(
        sa.select(of_agents)
        .where(of_agents.silent > 0, of_agents.calls >= request.at_least)
        .order_by(share.desc(), of_agents.silent.desc(), of_agents.agent_id)
        .limit(min(max(request.limit, 0), MOST_AGENTS))
    )
    agents = tuple(
        SilentAgent(user_id=r[0], agent_id=r[1], invocations=r[2], silent=r[3]) for r in listed
    )
    sums = sa.select(
        *(sa.func.coalesce(sa.func.sum(n), 0) for n in (of_agents.calls, of_agents.silent))
    )
    total = (await connection.execute(sums)).one()
    return SilentAgentsReply(invocations=int(total[0]), silent=int(total[1]), agents=agents)
