"""Uploads are unpacked aside; large source is answered within bounded memory."""

import asyncio
import threading
from typing import Any

import pytest
from webhost_api import bundles, source
from webhost_api.artifacts import Artifacts
from webhost_api.uploads import AT_ONCE, Unpacker
from webhost_contracts.artifacts import Artifact
from webhost_kit.errors import Unavailable
from webhost_kit.http import bodies

from tests.support.bundles import good_files, zipped
from tests.support.deadline import eventually

ARCHIVE = zipped(good_files())
LARGE = Artifact(type="modules", checksum="sha256:1", size_bytes=bundles.MAX_ARTIFACT_BYTES)


@pytest.mark.accept("7.4.uploads.aside")
async def test_bundles_are_unpacked_in_threads_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, threads = threading.Event(), list[threading.Thread]()
    read = bundles.read

    def slowly(archive: bytes) -> bundles.Packed:
        threads.append(threading.current_thread())
        go_on.wait(10)
        return read(archive)

    monkeypatch.setattr(bundles, "read", slowly)
    unpacker = Unpacker()

    async def unpack(user_id: str) -> str:
        async with unpacker.unpacked(user_id, ARCHIVE) as packed:
            return packed.artifact.checksum

    tasks = [asyncio.create_task(unpack(f"usr_{n}")) for n in range(AT_ONCE + 2)]

    async def begun() -> bool:
        return len(threads) == AT_ONCE

    # The loop goes on while they are unpacked.
    await eventually(begun, "the first to be unpacked")
    done, _ = await asyncio.wait(tasks, timeout=0.2)
    assert not done
    assert len(threads) == AT_ONCE
    assert threading.main_thread() not in threads
    go_on.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert len(threads) == AT_ONCE + 2


@pytest.mark.accept("7.4.uploads.aside")
async def test_one_user_leaves_room_to_unpack_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, under_way = threading.Event(), list[bytes]()
    read = bundles.read
    others = zipped(good_files(**{"other.txt": "other"}))

    def slowly(archive: bytes) -> bundles.Packed:
        under_way.append(archive)
        go_on.wait(10)
        return read(archive)

    monkeypatch.setattr(bundles, "read", slowly)
    unpacker = Unpacker()

    async def unpack(user_id: str, archive: bytes) -> None:
        async with unpacker.unpacked(user_id, archive):
            pass

    tasks = [asyncio.create_task(unpack("usr_many", ARCHIVE)) for _ in range(AT_ONCE + 1)]
    tasks.append(asyncio.create_task(unpack("usr_other", others)))
    done, _ = await asyncio.wait(tasks, timeout=0.2)
    assert not done
    assert under_way == [ARCHIVE, others]
    go_on.set()
    await asyncio.gather(*tasks)


class Stored(Artifacts):
    """A store that has what it is asked for."""

    def __init__(self) -> None: ...

    async def read(self, artifact: Artifact) -> bytes:
        return bytes(artifact.size_bytes)


@pytest.mark.accept("7.4.uploads.aside")
async def test_source_is_held_for_a_bounded_number_of_slow_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "WAIT_S", 0.05)
    room, taken = source.room(), asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await taken.wait()

    async def receive() -> Any:
        raise AssertionError

    async def answer(user_id: str) -> None:
        response = await source.answer(Stored(), room, user_id, LARGE)
        await response({"type": "http"}, receive, send)

    slow = [asyncio.create_task(answer(f"usr_{number}")) for number in range(2)]
    await asyncio.sleep(0)
    for user_id in ("usr_0", "usr_3"):
        with pytest.raises(Unavailable, match="source"):
            await answer(user_id)
    small = Artifact(type="modules", checksum="sha256:2", size_bytes=1000)
    await source.answer(Stored(), room, "usr_0", small)
    taken.set()
    await asyncio.gather(*slow)
    await answer("usr_3")
