"""Unpacks what is compressed, piece by piece, never more than there is room for. Pure."""

import zlib
from collections.abc import Callable

from webhost_api.archives.entries import MAX_UNPACKED_BYTES, MIB, too_large

CHUNK_BYTES = 64 * 1024


class Budget:
    """The bytes that may still be unpacked."""

    def __init__(self, size: int = MAX_UNPACKED_BYTES) -> None:
        self._left = size

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise too_large()


class Inflation:
    """One compressed stream; `take` is told of every piece before the next, and may raise."""

    def __init__(self, wbits: int, take: Callable[[int], None]) -> None:
        self._stream = zlib.decompressobj(wbits)
        self._take = take
        self.is_ended = False
        self.is_whole = False
        """Whether it ended where the bytes did."""

    def inflated(self, packed: memoryview) -> bytes:
        """Return what the bytes hold. Raises zlib.error, and what `take` raises."""
        content = bytearray()
        read = 0
        while read < len(packed) and not self._stream.eof:
            rest: bytes | memoryview = packed[read : read + CHUNK_BYTES]
            read += CHUNK_BYTES
            more = True
            while more and not self._stream.eof:
                piece = self._stream.decompress(rest, MIB)
                self._take(len(piece))
                content += piece
                rest = self._stream.unconsumed_tail
                more = bool(rest) or len(piece) == MIB
        self.is_ended = self._stream.eof
        self.is_whole = self.is_ended and read >= len(packed) and not self._stream.unused_data
        return bytes(content)
