"""`webhost billing invoice`"""

from pathlib import Path
from typing import Annotated

import typer

from webhost_cli import output
from webhost_cli.client import Api, Json
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import JsonOption


def invoice(
    api: Api,
    period: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="By default, the current period.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write it to this file, as a page to print."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a period's usage comes to, by agent and day; an estimate."""
    if html is not None:
        if as_json:
            raise CommandError("give --html or --json, not both", ExitCode.USAGE)
        page = api.text("/v1/billing/invoice.html", period=period)
        with output.writing(html):
            html.write_text(page, "utf-8")
    elif as_json:
        output.print_json(api.get("/v1/billing/invoice", period=period))
    else:
        _show(api.get("/v1/billing/invoice", period=period)["invoice"])


def _show(found: Json) -> None:
    numbers = ("requests", "tokens", "compute ms", "cost, estimated")
    others = f"{found['otherAgents']} others"
    rows = [
        (
            line.get("agentName") or line.get("agentId") or others,
            line["day"],
            line["runtimeProvider"],
            *_quantities(line),
        )
        for line in found["lines"]
    ]
    output.print_table(
        (found["periodKey"], "day (UTC)", "runtime", *numbers),
        [*rows, ("total", None, None, *_quantities(found["usage"]))],
        numbers=numbers,
        folds=found["periodKey"],
    )


def _quantities(costs: Json) -> tuple[str, ...]:
    return (
        *(f"{costs[name]:,}" for name in ("requests", "llmTokens", "computeMs")),
        f"${output.dollars(int(costs['costPicodollars']), ',')}",
    )
