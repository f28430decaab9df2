"""Requests a rebuild of usage from billing: one request, a stream of progress messages."""

import asyncio
from collections.abc import Callable

import msgspec
from nats.aio.client import Client
from nats.errors import NoRespondersError
from webhost_contracts import subjects, wire
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest

from webhost_cli.errors import CommandError, ExitCode

SILENCE_S = 60.0
"""How long billing may be silent before it counts as gone."""


async def rebuild(
    client: Client, request: RebuildRequest, show: Callable[[RebuildProgress], None]
) -> RebuildProgress:
    """Return the last line, with what is in all lines in it; `show` gets every line.

    Raises CommandError when billing refuses, or goes silent.
    """
    inbox = client.new_inbox()
    replies = await client.subscribe(inbox)
    await client.publish(subjects.RPC_REBUILD, wire.encode(request), reply=inbox)
    seen: RebuildProgress | None = None
    while seen is None or not seen.done:
        try:
            async with asyncio.timeout(SILENCE_S):
                reply = await replies.next_msg(timeout=SILENCE_S)
        except TimeoutError as error:
            raise CommandError(
                "billing has stopped responding; the same rebuild, run again, goes on from there",
                ExitCode.UNAVAILABLE,
            ) from error
        if reply.headers and reply.headers.get("Status") == "503":
            raise NoRespondersError
        line = wire.decode(reply.data, RebuildProgress)
        if line.refused is not None:
            raise CommandError(f"refused: {line.refused}")
        show(line)
        before = RebuildProgress(processed=0, total=0) if seen is None else seen
        seen = msgspec.structs.replace(
            line,
            differences=before.differences + line.differences,
            sealed=before.sealed + line.sealed,
            resumed=before.resumed + line.resumed,
        )
    return seen
