"""Which agents' calls are counted without a report of their Workers: an operator's list."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.usage_rpc import SilentAgent, SilentAgentsReply, SilentAgentsRequest

HOUR_MS = 3_600_000
MOST_HOURS = 7 * 24
MOST_AGENTS = 1_000
ON_THE_WAY_MS = 60_000
"""A Worker's three tries are over by then."""


async def silent_agents(
    connection: AsyncConnection, request: SilentAgentsRequest, now_ms: int
) -> SilentAgentsReply:
    """Return the agents whose calls lack a report most often; see the request."""
    hours = min(max(request.hours, 1), MOST_HOURS)
    within = {"since": now_ms - hours * HOUR_MS, "until": now_ms - ON_THE_WAY_MS}
    total = (await connection.execute(_TOTAL, within)).one()
    most = min(max(request.limit, 0), MOST_AGENTS)
    listed = await connection.execute(
        _HIGHEST_SHARES, within | {"at_least": request.at_least, "most": most}
    )
    return SilentAgentsReply(
        invocations=int(total.calls),
        silent=int(total.silent),
        agents=tuple(
            SilentAgent(
                user_id=row.user_id,
                agent_id=row.agent_id,
                invocations=row.calls,
                silent=row.silent,
            )
            for row in listed
        ),
    )


_OF_AGENTS = """
    WITH of_agents AS (
        SELECT user_id, agent_id, count(*) AS calls,
            count(*) FILTER (WHERE source = 'gateway') AS silent
        FROM usage_events
        WHERE generation = (SELECT live FROM generations WHERE scope = 'all')
            AND at_ms >= :since AND at_ms < :until AND source <> 'worker'
        GROUP BY user_id, agent_id
    )
"""
_TOTAL = sa.text(
    f"""
    {_OF_AGENTS}
    SELECT coalesce(sum(calls), 0) AS calls, coalesce(sum(silent), 0) AS silent FROM of_agents
    """  # noqa: S608 - constants, here and below
)
_HIGHEST_SHARES = sa.text(
    f"""
    {_OF_AGENTS}
    SELECT * FROM of_agents WHERE silent > 0 AND calls >= :at_least
    ORDER BY CAST(silent AS numeric) / calls DESC, silent DESC, agent_id LIMIT :most
    """  # noqa: S608
)
