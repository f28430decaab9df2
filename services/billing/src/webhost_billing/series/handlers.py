"""What billing replies about usage over time, and about what it costs.

Consumes: requests of the api. Emits: nothing.
Guarantees: an invoice's lines and the usage beside them are of one moment, so that they add up.
"""

from webhost_contracts.usage_rpc import (
    InvoiceReply,
    InvoiceRequest,
    SeriesReply,
    SeriesRequest,
    UsageRequest,
)
from webhost_kit.database.engine import Database

from webhost_billing import queries
from webhost_billing.charging import PriceBook
from webhost_billing.series import queries as series_queries
from webhost_billing.series.invoice import lines_of


class SeriesHandlers:
    """The requests' handlers."""

    def __init__(self, database: Database, prices: PriceBook) -> None:
        self._database = database
        self._prices = prices

    async def series(self, request: SeriesRequest) -> SeriesReply:
        """Answer what a user used in each minute, hour or day."""
        async with self._database.transaction() as connection:
            return await series_queries.series(connection, request)

    async def invoice(self, request: InvoiceRequest) -> InvoiceReply:
        """Answer what a user's usage of a period comes to, by agent and day."""
        user_id, period_key = request.user_id, request.period_key
        async with self._database.snapshot() as connection:
            used = await queries.usage(
                connection, UsageRequest(user_id=user_id, period_key=period_key)
            )
            days, left_out = await series_queries.agent_days(connection, user_id, period_key)
        lines, prices = lines_of(days, self._prices)
        return InvoiceReply(
            usage=used.usage,
            updated_at_ms=used.updated_at_ms,
            lines=lines,
            prices=prices,
            other_agents=left_out,
        )
