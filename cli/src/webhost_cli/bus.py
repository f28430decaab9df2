"""The bus, for operators' commands: they call the services, and never read their tables.

Address: the stack of `--data-dir`, else NATS_URL (with an operator's credentials), else the
local stack of WEBHOST_DATA_DIR or of the default directory.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from webhost_contracts import deadlines, wire
from webhost_contracts.bus_urls import servers_of
from webhost_contracts.wire import Wire
from webhost_local.data_dir import StackError

from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import data_dir_of

T = TypeVar("T")
R = TypeVar("R", bound=Wire)


class NoReply(TimeoutError):
    """A service did not answer in time; the message says what that means."""


def nats_url_of(data_dir: Path | None) -> str:
    """The bus's URL. Raises CommandError when it is a local stack that is not running."""
    if data_dir is None and (url := os.environ.get("NATS_URL")):
        return url
    from webhost_local import state

    try:
        # Ready or not: a stack with halted projections needs an operator to become ready.
        return state.read(data_dir_of(data_dir), ready=False).nats_url
    except StackError as error:
        raise CommandError(
            f"{error}. Elsewhere, set NATS_URL with an operator's user and password"
        ) from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work on the bus, with errors that its user understands."""
    try:
        return asyncio.run(work)
    except NoRespondersError as error:
        message = "no service takes this request on the bus, so nothing was done: is it running?"
        raise CommandError(message, ExitCode.UNAVAILABLE) from error
    except NoReply as error:
        raise CommandError(str(error), ExitCode.UNAVAILABLE) from error
    except (NatsError, TimeoutError) as error:
        raise _failure(error) from error


def request(
    data_dir: Path | None,
    subject: str,
    message: Wire,
    kind: type[R],
    *,
    timeout_s: float,
    reads: bool = False,
) -> R:
    """Connect, and return a service's reply; see `ask`. Raises CommandError, as `run` does."""
    url = nats_url_of(data_dir)

    async def work() -> R:
        async with connected(url) as client:
            return await ask(client, subject, message, kind, timeout_s=timeout_s, reads=reads)

    return run(work())


async def ask(
    client: Client,
    subject: str,
    request: Wire,
    kind: type[R],
    *,
    timeout_s: float,
    reads: bool = False,
) -> R:
    """Return a service's reply. Raises NoReply, and NoRespondersError where it is not there.

    What only `reads` can just be tried again; of anything else it is open whether it was done.
    """
    headers = deadlines.headers(time.time_ns() // 1_000_000, timeout_s)
    try:
        reply = await client.request(
            subject, wire.encode(request), timeout=timeout_s, headers=headers
        )
    except TimeoutError as error:
        service = subject.split(".")[1]
        silence = f"{service} has not answered within {timeout_s:g} s"
        if reads:
            raise NoReply(f"{silence}: try again") from error
        raise NoReply(
            f"{silence}: this was done, or is under way, or else it is not done later either."
            " Give the command again to be sure: once more does no harm."
        ) from error
    return wire.decode(reply.data, kind)


@asynccontextmanager
async def connected(urls: str) -> AsyncGenerator[Client]:
    """A connection that fails at once if none of the servers can be reached."""
    refusals: list[str] = []

    async def on_error(error: Exception) -> None:
        refusals.append(str(error))

    client = await _connected(urls, on_error)
    try:
        yield client
    except (NatsError, TimeoutError) as error:
        # A denied subject only shows here; the caller itself just waits.
        if refusals:
            raise CommandError(f"the bus: {refusals[-1]}") from error
        raise
    finally:
        await client.close()


async def _connected(urls: str, on_error: Callable[[Exception], Awaitable[None]]) -> Client:
    servers = servers_of(urls)
    for number, url in enumerate(random.sample(servers, len(servers)), start=1):
        client = Client()
        try:
            await client.connect(
                url,
                name="webhost-cli",
                inbox_prefix=b"_INBOX.operator",
                # From the first byte: a server that offers plain text is not believed.
                tls_handshake_first=url.startswith("tls://"),
                error_cb=on_error,
                allow_reconnect=False,
                connect_timeout=5,
                # These two count for the first connection as well.
                max_reconnect_attempts=1,
                reconnect_time_wait=0.1,  # pyright: ignore[reportArgumentType]
            )
        except (NatsError, OSError) as error:
            await client.close()
            if number == len(servers):
                raise _failure(error) from error
        else:
            return client
    raise CommandError("NATS_URL names no server")


def _failure(error: Exception) -> CommandError:
    reason = str(error) or type(error).__name__
    if "Authorization Violation" in reason:
        return CommandError(
            "the bus refuses the user or the password in NATS_URL", ExitCode.NOT_SIGNED_IN
        )
    return CommandError(f"the bus: {reason}", ExitCode.UNAVAILABLE)
