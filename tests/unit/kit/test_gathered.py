"""What is written in one turn of the loop is written once, in order; nothing is kept for long."""

import asyncio

from webhost_kit.http.gathered import MOST_BYTES, GatheredWrites


class Recorded(asyncio.Transport):
    """Takes note of what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 100

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.done))

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


async def test_head_and_body_are_one_write_in_the_next_turn() -> None:
    transport = Recorded()
    gathered = GatheredWrites(transport)
    gathered.write(b"head ")
    gathered.write(b"body")
    assert (transport.done, gathered.get_write_buffer_size()) == ([], 109)
    await asyncio.sleep(0)
    gathered.write(b"later")
    await asyncio.sleep(0)
    assert (transport.done, gathered.get_write_buffer_size()) == ([b"head body", b"later"], 100)


async def test_what_is_large_is_written_at_once_behind_what_came_before() -> None:
    transport = Recorded()
    gathered = GatheredWrites(transport)
    gathered.write(b"head ")
    gathered.write(b"x" * MOST_BYTES)
    assert transport.done == [b"head " + b"x" * MOST_BYTES]
    await asyncio.sleep(0)
    assert len(transport.done) == 1


async def test_an_end_comes_behind_what_was_written_and_an_abort_before() -> None:
    for end, done in (("close", [b"all", "close"]), ("abort", ["abort"])):
        transport = Recorded()
        gathered = GatheredWrites(transport)
        gathered.write(b"all")
        getattr(gathered, end)()
        await asyncio.sleep(0)
        assert transport.done == done
