"""`webhost usage`"""

from typing import Annotated

import typer
from webhost_contracts.buckets import Bucket

from webhost_cli import output, series
from webhost_cli.client import Api
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command()(with_api(usage))


def usage(
    api: Api,
    period: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="By default, the current period.")
    ] = None,
    by: Annotated[Bucket | None, typer.Option(help="Bucket size.")] = None,
    since: series.FromOption = None,
    until: series.ToOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was used in a period, and the plan's limits. With --by: over time."""
    if by is not None:
        if period is not None:
            raise CommandError("give --period, or --by with --from and --to", ExitCode.USAGE)
        series.show(api, "/v1/usage/series", by, since, until, as_json)
        return
    if since is not None or until is not None:
        raise CommandError("--from and --to go with --by", ExitCode.USAGE)
    path = "/v1/usage/current" if period is None else "/v1/billing/usage"
    answer = api.get(path, period=period)
    if as_json:
        output.print_json(answer)
        return
    used, limits = answer["usage"], answer["limits"]
    rows = [
        ("requests", used["requests"], limits["requests"]),
        ("tokens", used["llmTokens"], limits["tokens"]),
        ("compute ms", used["computeMs"], limits["computeMs"]),
    ]
    output.print_table(
        (f"{answer['periodKey']} ({answer['tier']})", "used", "limit"),
        [(name, f"{n:,}", "unlimited" if most is None else f"{most:,}") for name, n, most in rows]
        + [
            ("tool calls", f"{used['toolCalls']:,}", None),
            ("errors", f"{used['errors']:,}", None),
            ("cost, estimated", f"${used['costUsdEstimated']:.6f}", None),
        ],
        numbers=("used", "limit"),
    )
