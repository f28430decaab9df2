"""Which deployments' reports may still arrive, by the master key that they sign with."""

from webhost_telemetry_ingest.model import Deployment, Deployments


def deployment(key_version: int, *, ended_at_ms: int | None = None) -> Deployment:
    return Deployment(
        version=1,
        user_id="usr_1",
        agent_id="agt_1",
        runtime_provider="cloudflare",
        key_version=key_version,
        key_generation=1,
        ended_at_ms=ended_at_ms,
    )


def test_kept_deployments_are_named_before_those_that_have_ended() -> None:
    known = Deployments(
        {
            "dep_1": deployment(1, ended_at_ms=1),
            "dep_3": deployment(1),
            "dep_2": deployment(1),
            "dep_4": deployment(2),
        }
    )
    assert known.by_master_key() == {"1": 3, "2": 1}
    assert known.ids_by_master_key() == {"1": ("dep_2", "dep_3", "dep_1"), "2": ("dep_4",)}
    assert known.ids_by_master_key(most=2) == {"1": ("dep_2", "dep_3"), "2": ("dep_4",)}
