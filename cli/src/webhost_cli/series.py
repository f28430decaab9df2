"""Usage by minute, hour or day, as `webhost usage --by` and `webhost agents metrics` show it."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from webhost_contracts.buckets import Bucket

from webhost_cli import output
from webhost_cli.client import Api, Json

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]

FromOption = Annotated[
    datetime | None,
    typer.Option("--from", formats=_FORMATS, help="From this time (UTC) on."),
]
ToOption = Annotated[
    datetime | None,
    typer.Option("--to", formats=_FORMATS, help="Until before this time (UTC); by default, now."),
]


def show(
    api: Api,
    path: str,
    bucket: Bucket,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Print what was used in each bucket."""
    answer = api.get(path, bucket=bucket, fromMs=_ms(since), toMs=_ms(until), **filters)
    if as_json:
        output.print_json(answer)
        return
    columns = ("requests", "tokens", "compute ms", "tool calls", "errors", "cost, estimated")
    output.print_table(
        (f"{bucket} (UTC)", *columns),
        [_row(point, bucket) for point in answer["series"]],
        numbers=columns,
    )


def _row(point: Json, bucket: Bucket) -> tuple[str, ...]:
    start = datetime.fromtimestamp(point["startAtMs"] / 1000, UTC)
    counted = ("requests", "llmTokens", "computeMs", "toolCalls", "errors")
    return (
        start.strftime("%Y-%m-%d" if bucket == "day" else "%Y-%m-%d %H:%M"),
        *(f"{point[name]:,}" for name in counted),
        f"${point['costUsdEstimated']:.6f}",
    )


def _ms(time: datetime | None) -> int | None:
    return None if time is None else int(time.replace(tzinfo=UTC).timestamp() * 1000)
