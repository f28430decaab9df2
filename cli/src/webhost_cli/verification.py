"""`webhost billing verify` and `late`: whether usage holds together, and what does not count."""

from typing import Annotated, TypeVar

import typer
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import (
    LateReportsReply,
    LateReportsRequest,
    VerifyReply,
    VerifyRequest,
)
from webhost_contracts.wire import Wire

from webhost_cli import bus, output
from webhost_cli.errors import ExitCode
from webhost_cli.options import BusOption, JsonOption

VERIFIED_S = 600.0
REPLY_S = 10.0

R = TypeVar("R", bound=Wire)


def verify(data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """Check usage against seals, calls and the stream. Exits with 1 if anything differs."""
    url = bus.nats_url_of(data_dir)
    reply = bus.run(_ask(url, subjects.RPC_VERIFY, VerifyRequest(), VerifyReply, VERIFIED_S))
    if as_json:
        output.print_json(reply)
    else:
        for problem in reply.problems:
            output.say(problem)
        if reply.left_out:
            output.say(f"and {reply.left_out} more")
        found = "something differs" if reply.problems else "all agree"
        output.say(
            f"{reply.rows} rows of usage, {reply.sealed} sealed periods, {reply.invocations} calls:"
            f" {found}"
        )
    if reply.problems:
        raise typer.Exit(ExitCode.FAILURE)


def late(
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="This user only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the reports that came after their period was sealed, and so do not count."""
    url, request = bus.nats_url_of(data_dir), LateReportsRequest(user_id=user, limit=limit)
    reply = bus.run(_ask(url, subjects.RPC_LATE_REPORTS, request, LateReportsReply, REPLY_S))
    if as_json:
        output.print_json(reply)
        return
    output.print_table(
        ("recorded", "period", "user", "deployment", "by", "id", "tokens", "compute ms"),
        [
            (
                *(output.when(one.recorded_at_ms), one.period_key, one.user_id),
                *(one.deployment_id, one.source, one.id, one.llm_tokens, one.compute_ms),
            )
            for one in reply.reports
        ],
        numbers=("tokens", "compute ms"),
        folds="id",
    )


async def _ask(url: str, subject: str, request: Wire, kind: type[R], timeout_s: float) -> R:
    async with bus.connected(url) as client:
        return await bus.ask(client, subject, request, kind, timeout_s=timeout_s)
