"""The messages of USAGE from its first one, a big batch at a time, never behind a limit."""

import asyncio
from collections.abc import Sequence

from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Recorded, StreamReader
from webhost_kit.errors import StreamDiverged

BATCH = 5_000
SILENCE_S = 30.0


class Replay:
    """Reads ahead of what it gives out, at most by one batch."""

    def __init__(self, bus: Bus) -> None:
        reader = StreamReader(bus, subjects.USAGE, [subjects.ALL_USAGE], batch_size=BATCH)
        self._batches = reader.batches(None)
        self._ahead: Sequence[Recorded] = ()
        self.sequence = 0

    async def next(self, most: int) -> Sequence[Recorded]:
        """Return the next messages up to the sequence `most`; none once it is reached.

        Raises StreamDiverged when the stream falls silent before that.
        """
        while not self._ahead:
            if self.sequence >= most:
                return ()
            try:
                async with asyncio.timeout(SILENCE_S):
                    batch = await anext(self._batches)
            except TimeoutError as error:
                raise StreamDiverged(f"nothing came behind {self.sequence} of {most}") from error
            self._ahead = batch.messages
        taken = [message for message in self._ahead if message.sequence <= most]
        self._ahead = self._ahead[len(taken) :]
        if taken:
            self.sequence = taken[-1].sequence
        return taken

    async def aclose(self) -> None:
        """Give the stream's consumer back."""
        await self._batches.aclose()
