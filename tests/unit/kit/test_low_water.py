"""The low-water mark never passes a row that may still appear."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from webhost_kit.eventsourcing.low_water import FULL_LOOK_S, LowWater


def test_a_look_begins_behind_what_is_certainly_gone() -> None:
    low_water = LowWater()
    assert low_water.above(0.0) == 0
    low_water.looked(seen_below=101, next_xid=7, oldest_xid=7)
    low_water.looked(seen_below=101, next_xid=7, oldest_xid=7)
    low_water.looked(seen_below=101, next_xid=8, oldest_xid=8)
    assert low_water.above(1.0) == 100


def test_it_waits_for_a_transaction_that_began_before() -> None:
    low_water = LowWater()
    low_water.above(0.0)
    for next_xid in range(8, 20):
        low_water.looked(seen_below=101, next_xid=next_xid, oldest_xid=7)
    assert low_water.above(1.0) == 0


def test_now_and_then_it_begins_at_the_bottom() -> None:
    low_water = LowWater()
    low_water.above(0.0)
    for _ in range(3):
        low_water.looked(seen_below=101, next_xid=9, oldest_xid=9)
    assert low_water.above(1.0) == 100
    assert low_water.above(FULL_LOOK_S) == 0


@dataclass
class Server:
    """Transactions that take a serial each, and commit in any order."""

    next_serial: int = 1
    next_xid: int = 1
    open: dict[int, int] = field(default_factory=dict)
    visible: set[int] = field(default_factory=set)

    def begin(self) -> None:
        self.open[self.next_xid] = self.next_serial
        self.next_xid += 1
        self.next_serial += 1

    def commit(self, which: int) -> None:
        xid = sorted(self.open)[which % len(self.open)]
        self.visible.add(self.open.pop(xid))


@given(st.lists(st.one_of(st.just("begin"), st.just("look"), st.integers(0, 5)), max_size=80))
def test_no_row_is_ever_overlooked(steps: list[str | int]) -> None:
    server, low_water = Server(), LowWater()
    low_water.above(0.0)
    for step in steps:
        if step == "begin":
            server.begin()
        elif step == "look":
            above = low_water.above(1.0)
            assert all(serial > above for serial in server.visible)
            server.visible.clear()
            oldest = min(server.open, default=server.next_xid)
            low_water.looked(server.next_serial, server.next_xid, oldest)
        elif server.open:
            server.commit(int(step))
