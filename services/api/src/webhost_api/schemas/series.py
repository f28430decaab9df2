"""Usage by minute, hour or day."""

from webhost_contracts.usage_rpc import Counters

from webhost_api.schemas.base import Schema
from webhost_api.schemas.usage import CountersSchema, counters_schema


class SeriesPointSchema(CountersSchema):
    """What was used from a time on, until before another. The cost is an estimate, in dollars."""

    start_at_ms: int
    end_at_ms: int


class SeriesResponse(Schema):
    """Minutes, hours or days, none left out, in order."""

    series: list[SeriesPointSchema]


def point_schema(start_ms: int, end_ms: int, counters: Counters) -> SeriesPointSchema:
    """Return what was used in a bucket, as JSON."""
    return SeriesPointSchema(
        start_at_ms=start_ms, end_at_ms=end_ms, **counters_schema(counters).model_dump()
    )
