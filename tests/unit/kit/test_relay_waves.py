"""Rows go out at once where they may, one after the other where they must."""

from hypothesis import given
from hypothesis import strategies as st
from webhost_kit.eventsourcing.relay import OutboxRow, in_waves


def row(serial: int, key: str) -> OutboxRow:
    return OutboxRow(serial, key, f"evt.{key}", f"evt_{serial}", {}, b"")


@given(st.lists(st.sampled_from("abc")))
def test_a_wave_holds_a_key_once_and_order_within_a_key_stays(keys: list[str]) -> None:
    rows = [row(serial, key) for serial, key in enumerate(keys)]
    waves = in_waves(rows)

    for wave in waves:
        assert len({r.ordering_key for r in wave}) == len(wave)
    sent = [r for wave in waves for r in wave]
    assert sorted(r.serial for r in sent) == [r.serial for r in rows]
    for key in "abc":
        serials = [r.serial for r in sent if r.ordering_key == key]
        assert serials == sorted(serials)


def test_different_keys_share_one_wave() -> None:
    assert len(in_waves([row(1, "a"), row(2, "b"), row(3, "c")])) == 1
