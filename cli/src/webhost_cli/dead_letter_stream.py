"""The dead-letter stream: the commands that no handler could handle.

Replaying one publishes it again on its original subject and then removes it. That subject follows
from where the dead letter is stored, never from what its publisher says. A command that is
replayed twice is handled twice: handlers are idempotent by the command's id.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from webhost_contracts import subjects

from webhost_cli.errors import CommandError, ExitCode

_ADDED_HEADERS = (
    subjects.DEAD_REASON_HEADER,
    subjects.MESSAGE_ID_HEADER,
)


class DeadLetter(msgspec.Struct, rename="camel", frozen=True):
    """One message of the stream; `seq` names it, `body` is as it was published."""

    seq: int
    dead_lettered_at: datetime
    subject: str
    reason: str
    headers: dict[str, str]
    body: Any


async def every(js: JetStreamContext) -> AsyncIterator[DeadLetter]:
    """Give every dead letter, oldest first."""
    try:
        state = (await js.stream_info(subjects.DEAD_LETTERS)).state
    except NotFoundError as error:
        raise CommandError("this bus has no dead letters yet") from error
    seq = state.first_seq
    while state.messages and seq <= state.last_seq:
        try:
            letter = await _read(js, seq, at_or_after=True)
        except NotFoundError:
            return
        yield letter
        seq = letter.seq + 1


async def one(js: JetStreamContext, seq: int) -> DeadLetter:
    """Return the dead letter of this number. Raises CommandError when there is none."""
    try:
        return await _read(js, seq, at_or_after=False)
    except NotFoundError as error:
        raise CommandError(f"no dead letter {seq}", ExitCode.NOT_FOUND) from error


async def replay(js: JetStreamContext, letter: DeadLetter) -> None:
    """Publish it again where it came from, and take it out of the dead letters."""
    raw = await js.get_msg(subjects.DEAD_LETTERS, letter.seq)
    headers = {k: v for k, v in _headers(raw).items() if k not in _ADDED_HEADERS}
    # Its first message id would make the server drop it as a duplicate.
    headers[subjects.MESSAGE_ID_HEADER] = (
        f"replay-{letter.seq}-{letter.dead_lettered_at.isoformat()}"
    )
    await js.publish(letter.subject, raw.data or b"", headers=headers)
    await js.delete_msg(subjects.DEAD_LETTERS, letter.seq)


async def _read(js: JetStreamContext, seq: int, *, at_or_after: bool) -> DeadLetter:
    raw = await js.get_msg(
        subjects.DEAD_LETTERS,
        seq,
        subject=subjects.ALL_DEAD_LETTERS if at_or_after else None,
        next=at_or_after,
    )
    headers = _headers(raw)
    subject = (raw.subject or "").removeprefix(subjects.dead_letter(""))
    if raw.seq is None or raw.time is None:
        raise CommandError(f"the bus returned dead letter {seq} without its number or time")
    return DeadLetter(
        seq=raw.seq,
        dead_lettered_at=raw.time,
        subject=subject,
        reason=headers.pop(subjects.DEAD_REASON_HEADER, "unknown"),
        headers=headers,
        body=_readable(raw.data or b""),
    )


def _headers(raw: RawStreamMsg) -> dict[str, str]:
    return dict(raw.headers or {})  # pyright: ignore[reportUnknownArgumentType]


def _readable(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace")
