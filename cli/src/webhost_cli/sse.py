"""Server-sent events, decoded byte by byte: an event is given out when its last line has ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event: its name (`message` when it has none), its data, the last id seen."""

    name: str
    data: str
    id: str | None = None


class Decoder:
    """Turns chunks into events, wherever the chunks were cut. CR, LF and CRLF end a line."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._name = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that this chunk completes."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the rest of a CRLF whose CR has ended the line already
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[Event] = []
        for line in ended:
            self._line += line
            if event := self._end_line(self._line.decode(errors="replace")):
                events.append(event)
            self._line.clear()
        self._line += rest
        return events

    def _end_line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        return None  # comments have an empty field; unknown fields are ignored

    def _dispatch(self) -> Event | None:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return Event(name, "\n".join(data), self._id) if data else None
