"""A checkpoint, and whether the stream still is the one that it was taken on.

Consumes: a stream's state, as the server says that leads it, and the message at the checkpoint.
Guarantees: a stream that was made anew, lost its tail or what comes next, or holds another message
there raises StreamDiverged.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import cast

from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError
from webhost_contracts.subjects import MESSAGE_ID_HEADER

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.contact import ANSWERED_S, require_led
from webhost_kit.errors import StreamDiverged, StreamMissing

SECOND_LOOK_S = 1.0
"""A server of a cluster that stood still may answer once more as the leader that it was."""


@dataclass(frozen=True)
class Checkpoint:
    """A position in one incarnation of a stream: everything up to `sequence` has been folded.

    `message_id` identifies the message there, by a hash of its content if it came without an id.
    Sequence 0 is the start of any stream. `epoch` counts an operator's resets.
    """

    stream_created_at: str
    sequence: int
    message_id: str | None
    epoch: int = 0


async def verified(bus: Bus, stream: str, checkpoint: Checkpoint | None) -> Checkpoint:
    """Return where to begin. Raises StreamDiverged where it is another one, StreamMissing."""
    info = await _info(bus, stream)
    if checkpoint is not None and _is_behind(info, checkpoint) and _is_replicated(info):
        await asyncio.sleep(SECOND_LOOK_S)
        info = await _info(bus, stream)
    created_at = str(info.created)
    if checkpoint is None or checkpoint.sequence == 0:
        return Checkpoint(created_at, 0, None, checkpoint.epoch if checkpoint else 0)
    if checkpoint.stream_created_at != created_at:
        raise StreamDiverged(
            f"stream {stream} was created at {created_at}, the checkpoint was taken on "
            f"one created at {checkpoint.stream_created_at}"
        )
    if _is_behind(info, checkpoint):
        raise StreamDiverged(
            f"stream {stream} ends at {info.state.last_seq}, the checkpoint is "
            f"{checkpoint.sequence}: its tail is lost"
        )
    if info.state.first_seq > checkpoint.sequence + 1:
        raise StreamDiverged(
            f"stream {stream} begins at {info.state.first_seq}, the checkpoint is "
            f"{checkpoint.sequence}: what was between them expired or was purged unread"
        )
    await _verify_message(bus, stream, info, checkpoint)
    return checkpoint


async def _info(bus: Bus, stream: str) -> StreamInfo:
    try:
        async with asyncio.timeout(ANSWERED_S):
            return require_led(await bus.js.stream_info(stream))
    except NotFoundError as error:
        raise StreamMissing(f"the stream {stream} is missing") from error


async def _verify_message(bus: Bus, stream: str, info: StreamInfo, checkpoint: Checkpoint) -> None:
    if checkpoint.sequence < max(info.state.first_seq, 1):
        return
    found = await name_at(bus, stream, checkpoint.sequence)
    if None not in (found, checkpoint.message_id) and found != checkpoint.message_id:
        raise StreamDiverged(
            f"stream {stream} holds {found} at {checkpoint.sequence}, the checkpoint "
            f"was taken at {checkpoint.message_id}"
        )


async def name_at(bus: Bus, stream: str, sequence: int) -> str | None:
    """Return what identifies the message at a place; None where there is none any more."""
    try:
        message = await bus.js.get_msg(stream, sequence)
    except NotFoundError:
        return None
    headers = cast(dict[str, str], message.headers or {})
    return name_of(headers.get(MESSAGE_ID_HEADER), message.data or b"")


def name_of(message_id: str | None, body: bytes) -> str:
    """Return what identifies a message: its id, or a hash where it came without one."""
    return message_id or f"sha256:{hashlib.sha256(body).hexdigest()}"


def _is_behind(info: StreamInfo, checkpoint: Checkpoint) -> bool:
    return info.state.last_seq < checkpoint.sequence


def _is_replicated(info: StreamInfo) -> bool:
    return (info.config.num_replicas or 1) > 1
