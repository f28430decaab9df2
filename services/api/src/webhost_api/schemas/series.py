"""Usage by minute, hour or day."""

from collections.abc import Iterable

import msgspec
from webhost_contracts.usage_rpc import Counters

from webhost_api.schemas.base import Schema
from webhost_api.schemas.usage import PICODOLLARS, CountersSchema


class SeriesPointSchema(CountersSchema):
    """What was used from a time on, until before another. The cost is an estimate, in dollars."""

    start_at_ms: int
    end_at_ms: int


class SeriesResponse(Schema):
    """Minutes, hours or days, none left out, in order."""

    series: list[SeriesPointSchema]


class _Point(msgspec.Struct, rename="camel"):
    """A SeriesPointSchema: of the many in an answer, models take ten times as long to write."""

    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    cost_usd_estimated: float
    start_at_ms: int
    end_at_ms: int


def series_json(points: Iterable[tuple[int, int, Counters]]) -> bytes:
    """Return what was used in buckets, each with its start and end, as a SeriesResponse."""
    series = [
        _Point(
            requests=counters.requests,
            llm_tokens=counters.llm_tokens,
            compute_ms=counters.compute_ms,
            tool_calls=counters.tool_calls,
            errors=counters.errors,
            cost_usd_estimated=counters.cost_picodollars / PICODOLLARS,
            start_at_ms=start_ms,
            end_at_ms=end_ms,
        )
        for start_ms, end_ms, counters in points
    ]
    return msgspec.json.encode({"series": series})
