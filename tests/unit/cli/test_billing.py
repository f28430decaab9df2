"""What a rebuild's differences look like."""

import pytest
from webhost_cli import billing
from webhost_contracts.usage_rpc import Counters, Difference, RebuildProgress


@pytest.mark.accept("8.series.rebuild")
def test_a_row_of_the_series_is_named_by_its_time_and_deployment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = Difference(
        user_id="usr_1",
        period_key="2024-02",
        runtime_provider="cloudflare",
        live=None,
        rebuilt=Counters(requests=1),
    )
    hour = Difference(
        user_id="usr_1",
        period_key="2024-02",
        runtime_provider="cloudflare",
        live=Counters(requests=2),
        rebuilt=Counters(requests=1),
        bucket="hour",
        start_ms=1_709_164_800_000,
        agent_id="agt_1",
        deployment_id="dep_1",
    )
    billing._show(RebuildProgress(processed=3, total=3, done=True, differences=(usage, hour)))  # pyright: ignore[reportPrivateUsage]
    _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows if "requests" in row] == [
        ["usr_1", "2024-02", "cloudflare", "requests", "no", "row", "1"],
        ["usr_1", "hour", "2024-02-29T00:00Z", "dep_1", "cloudflare", "requests", "2", "1"],
    ]
    assert "rows that differ: 2" in last
