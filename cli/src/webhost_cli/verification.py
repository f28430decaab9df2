"""`webhost billing verify` and `late`: whether usage holds together, and what does not count."""

from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import (
    LateReportsReply,
    LateReportsRequest,
    VerifyReply,
    VerifyRequest,
)

from webhost_cli import bus, output
from webhost_cli.errors import CommandError
from webhost_cli.options import BusOption, JsonOption

VERIFIED_S = 600.0
REPLY_S = 10.0


def verify(data_dir: BusOption = None, as_json: JsonOption = False) -> None:
    """Operators: check usage against seals, calls and the stream.

    Exits with 1 if anything differs.
    """
    reply = bus.request(
        data_dir,
        subjects.RPC_VERIFY,
        VerifyRequest(),
        VerifyReply,
        timeout_s=VERIFIED_S,
        reads=True,
    )
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
        raise CommandError("usage does not hold together; see docs/runbooks/rebuild-usage.md")


def late(
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="This user only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 100,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operators: list the reports that came after their period was sealed, and so do not count."""
    request = LateReportsRequest(user_id=user, limit=limit)
    reply = bus.request(
        data_dir,
        subjects.RPC_LATE_REPORTS,
        request,
        LateReportsReply,
        timeout_s=REPLY_S,
        reads=True,
    )
    if as_json:
        output.print_json(reply)
        return
    if not reply.reports:
        output.say("no report came after its period was sealed")
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
