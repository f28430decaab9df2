"""Which totals a gateway holds on to."""

import pytest
from webhost_contracts.totals import Totals

KNOWN = Totals(tokens=10, compute_ms=0, generation=2, epoch=1, correction=1, sequence=7)


@pytest.mark.parametrize(
    ("later", "holds"),
    [
        pytest.param({"sequence": 8}, True, id="newer"),
        pytest.param({"sequence": 7}, True, id="with what was parked"),
        pytest.param({"sequence": 6}, False, id="older"),
        pytest.param({"sequence": 6, "correction": 2}, True, id="a part was rebuilt"),
        pytest.param({"sequence": 1, "epoch": 2}, True, id="begun again"),
        pytest.param({"sequence": 1, "generation": 1}, True, id="a restored database"),
    ],
)
def test_of_one_fold_older_totals_never_replace_newer_ones(
    later: dict[str, int], *, holds: bool
) -> None:
    fields = {"generation": 2, "epoch": 1, "correction": 1} | later
    assert Totals(tokens=20, compute_ms=0, **fields).replaces(KNOWN) is holds
    assert KNOWN.replaces(None)
