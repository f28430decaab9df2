"""Streams that take nothing for a while."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from webhost_kit.bus.connection import Bus


@asynccontextmanager
async def refusing(bus: Bus, stream: str) -> AsyncGenerator[None]:
    """Within the block the stream refuses what is published, at once; behind it, all is well."""
    config = (await bus.js.stream_info(stream)).config
    await bus.js.update_stream(config.evolve(max_msg_size=1))
    try:
        yield
    finally:
        await bus.js.update_stream(config)
