"""Usage by minute, hour or day, as `webhost usage --by` and `webhost agents metrics` show it."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from webhost_contracts.buckets import Bucket

from webhost_cli import output
from webhost_cli.client import Api, Json
from webhost_cli.errors import ApiError, CommandError, ExitCode

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]

FromOption = Annotated[
    datetime | None,
    typer.Option(
        "--from", formats=_FORMATS, metavar="DATE[THH:MM]", help="From this time (UTC) on."
    ),
]
ToOption = Annotated[
    datetime | None,
    typer.Option(
        "--to",
        formats=_FORMATS,
        metavar="DATE[THH:MM]",
        help="Until before this time (UTC); by default, now.",
    ),
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
    """Print what was used in each bucket. Raises CommandError for times that cannot be."""
    begin, end = _typed("--from", since), _typed("--to", until) if until else "now"
    if since is not None and since >= (until or datetime.now(UTC).replace(tzinfo=None)):
        raise CommandError(f"{begin} has to be before {end}", ExitCode.USAGE)
    try:
        answer = api.get(path, bucket=bucket, fromMs=_ms(since), toMs=_ms(until), **filters)
    except ApiError as error:
        raise ApiError(error.body, {"fromMs": begin, "toMs": end}) from error
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


def _typed(option: str, time: datetime | None) -> str:
    return option if time is None else f"{option} {time:%Y-%m-%dT%H:%M}"


def _ms(time: datetime | None) -> int | None:
    return None if time is None else int(time.replace(tzinfo=UTC).timestamp() * 1000)
