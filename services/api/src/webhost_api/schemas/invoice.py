"""A preview of an invoice. Exact costs are texts: a JSON number has not enough digits."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from webhost_contracts.usage_rpc import InvoiceLine, InvoiceReply, PriceInForce

from webhost_api.schemas.base import OptionalText, Schema
from webhost_api.schemas.usage import CountersSchema, counters_schema

Picodollars = Annotated[
    str,
    Field(
        pattern="^[0-9]+$",
        examples=["1500001"],
        description="The same cost, exactly, in 10^-12 dollars.",
    ),
]


class PriceSchema(Schema):
    """Prices in 10^-6 dollars, and since when they hold."""

    effective_at_ms: int
    request_microdollars: int
    million_compute_ms_microdollars: int
    million_tokens_microdollars: int


class CostsSchema(CountersSchema):
    """Summed counters. The cost is an estimate, in dollars."""

    cost_picodollars: Picodollars


class InvoiceLineSchema(CostsSchema):
    """What an agent used on a day (UTC), and its price. Without `agentId`, the other agents."""

    day: Annotated[str, Field(examples=["2026-11-03"])]
    agent_id: OptionalText = None
    agent_name: OptionalText = None
    runtime_provider: str
    price: PriceSchema


class InvoiceSchema(Schema):
    """A period's usage by agent and day; the lines add up to `usage`.

    Agents that cost least share lines where there would be too many: `otherAgents` says how many.
    """

    user_id: str
    period_key: str
    updated_at_ms: int
    usage: CostsSchema
    lines: list[InvoiceLineSchema]
    other_agents: int


class InvoiceResponse(Schema):
    """A preview of an invoice."""

    invoice: InvoiceSchema


def invoice_schema(
    user_id: str, period_key: str, reply: InvoiceReply, names: Mapping[str, str]
) -> InvoiceSchema:
    """Return billing's answer, as JSON; `names` are those of agents, by id."""
    prices = [_price_schema(price) for price in reply.prices]
    return InvoiceSchema(
        user_id=user_id,
        period_key=period_key,
        updated_at_ms=reply.updated_at_ms,
        usage=CostsSchema(
            cost_picodollars=str(reply.usage.cost_picodollars),
            **counters_schema(reply.usage).model_dump(),
        ),
        lines=[_line_schema(line, prices[line.price], names) for line in reply.lines],
        other_agents=reply.other_agents,
    )


def _line_schema(
    line: InvoiceLine, price: PriceSchema, names: Mapping[str, str]
) -> InvoiceLineSchema:
    return InvoiceLineSchema(
        day=line.day,
        agent_id=line.agent_id,
        agent_name=None if line.agent_id is None else names.get(line.agent_id),
        runtime_provider=line.runtime_provider,
        price=price,
        cost_picodollars=str(line.counters.cost_picodollars),
        **counters_schema(line.counters).model_dump(),
    )


def _price_schema(price: PriceInForce) -> PriceSchema:
    return PriceSchema(
        effective_at_ms=price.effective_from_ms,
        request_microdollars=price.request,
        million_compute_ms_microdollars=price.million_compute_ms,
        million_tokens_microdollars=price.million_tokens,
    )
