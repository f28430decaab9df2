"""A transport whose writes of one turn of the event loop are one write.

uvicorn writes an answer's head and its body apart, and each write is a call of the system and wakes
the client: for a small answer, as much again as all that the server does otherwise.
"""

import asyncio
from typing import Any

MOST_BYTES = 16 * 1024
"""What is gathered at most: beyond, the transport has to see what its client does not take."""


class GatheredWrites:
    """Has all of the transport's methods, and gathers what is written."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        """Return the transport's own, of what is not defined here."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write this, at the latest in the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._flush()

    def close(self) -> None:
        """Close the transport when everything is written."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not written yet."""
        return self._size + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        if self._held:
            held = b"".join(self._held)
            self._held.clear()
            self._size = 0
            if not self._transport.is_closing():
                self._transport.write(held)
