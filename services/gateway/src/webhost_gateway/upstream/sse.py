"""Server-sent events: an incremental reader for the Worker's, and a writer for our own."""

from dataclasses import dataclass

import msgspec

HEARTBEAT = b":\n\n"
CONTENT_TYPE = "text/event-stream"

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event as it was sent."""

    name: str
    data: bytes


class SseReader:
    """Takes bytes as they come, returns events as soon as their blank line has arrived.

    Lines end in LF, CR or CRLF, wherever the bytes were split. `pending` are the bytes of an event
    that is not complete; what is kept of them takes no more than that, however they were split.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._name = ""
        self._data: bytearray | None = None
        self.pending = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that these bytes complete."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        events: list[SseEvent] = []
        for part in chunk.splitlines(keepends=True):
            self._after_cr = part.endswith(b"\r")
            self._line += part
            self.pending += len(part)
            if self._after_cr or part.endswith(b"\n"):
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                if not line:
                    self.pending = 0
                if (event := self._field(line)) is not None:
                    events.append(event)
        return events

    def _field(self, line: bytes) -> SseEvent | None:
        if not line:
            name, data = self._name, self._data
            self._name, self._data = "", None
            return None if data is None else SseEvent(name, bytes(data))
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"data":
            if self._data is None:
                self._data = bytearray(value)
            else:
                self._data += b"\n" + value
        return None


class SseWriter:
    """Writes events with consecutive ids; JSON keeps line breaks inside the data escaped."""

    def __init__(self) -> None:
        self._last_id = 0

    def event(self, name: str, data: object) -> bytes:
        """Return one event."""
        self._last_id += 1
        return b"event: %b\nid: %d\ndata: %b\n\n" % (
            name.encode(),
            self._last_id,
            _encoder.encode(data),
        )
