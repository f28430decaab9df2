"""Where a rotation stands, and what has to be waited for before its next phase."""

import pytest
from msgspec.structs import replace
from webhost_cli.platform_keys import NotSaid
from webhost_cli.rotation import (
    SETTLE_MS,
    Obstacle,
    Replies,
    Standing,
    Unclear,
    deployments_of,
    held,
    obstacle,
    services_of,
    settings_in,
    shown,
    standing,
)
from webhost_contracts.maintenance import KeysReply
from webhost_contracts.platform_keys import KINDS, Kind, Phase, next_id

NOW_MS = 1_000_000

KIND_NAMES = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def old_and_new(kind: Kind) -> tuple[str, str]:
    return kind.first, next_id(kind.first)


def replies(kind: Kind, phase: Phase, **more: object) -> Replies:
    """What two processes of each service say in this phase; all is quiet and nothing lags."""
    settings = settings_in(kind, *old_and_new(kind), phase)
    services = {*services_of(kind), "deployer"}
    said = {
        service: KeysReply(
            process=service,
            keys={place.setting: ids for place, ids in settings if place.service == service},
            since_ms=NOW_MS - SETTLE_MS,
        )
        for service in services
    }
    said["deployer"] = replace(said["deployer"], **({"lagging": 0, "sealed": {}} | more))
    return {service: [reply, reply] for service, reply in said.items()}


def stands(kind: Kind, found: Replies) -> Standing:
    return standing(kind, held(kind, found))


@pytest.mark.accept("7.rotation.phases")
@KIND_NAMES
def test_each_phase_is_read_from_what_the_processes_hold(kind: Kind) -> None:
    old, new = old_and_new(kind)
    assert stands(kind, replies(kind, Phase.OLD)) == Standing(old, None, Phase.OLD)
    assert stands(kind, replies(kind, Phase.KNOWN)) == Standing(old, new, Phase.KNOWN)
    assert stands(kind, replies(kind, Phase.USED)) == Standing(old, new, Phase.USED)
    assert stands(kind, replies(kind, Phase.NEW)) == Standing(new, None, Phase.OLD)


@pytest.mark.accept("7.rotation.phases")
@KIND_NAMES
@pytest.mark.parametrize("phase", [Phase.OLD, Phase.KNOWN, Phase.USED])
def test_one_process_that_has_not_moved_on_is_seen(kind: Kind, phase: Phase) -> None:
    before, after = replies(kind, phase), replies(kind, Phase(phase + 1))
    changed = next(it for it in services_of(kind) if before[it][0].keys != after[it][0].keys)
    mixed = {**after, changed: [after[changed][0], before[changed][0]]}
    old, new = old_and_new(kind)
    assert stands(kind, mixed) == Standing(old, new, phase, moving=True)


@pytest.mark.accept("7.rotation.phases")
def test_what_is_no_step_of_a_rotation_is_refused() -> None:
    kind = KINDS["invoke"]
    early = {**replies(kind, Phase.OLD), "gateway": replies(kind, Phase.USED)["gateway"]}
    with pytest.raises(Unclear, match="no step of a rotation"):
        stands(kind, early)
    [place] = [it for it in kind.lists if it.service == "deployer"]
    with pytest.raises(Unclear, match="between two"):
        standing(kind, [(place, ("invoke-1", "invoke-2", "invoke-3"))])
    with pytest.raises(Unclear, match="between two"):
        standing(kind, [(place, ("one", "other"))])
    with pytest.raises(Unclear):
        standing(kind, [])


@pytest.mark.accept("7.rotation.early")
@KIND_NAMES
def test_nothing_stands_in_the_way_of_what_is_ready(kind: Kind) -> None:
    for phase in (Phase.OLD, Phase.KNOWN, Phase.USED):
        found = replies(kind, phase)
        assert obstacle(kind, stands(kind, found), found, NOW_MS) is None


@pytest.mark.accept("7.rotation.early")
@pytest.mark.parametrize("name", ["invoke", "platform"])
def test_a_worker_without_the_keys_is_waited_for(name: str) -> None:
    kind = KINDS[name]
    for phase in Phase:
        found = replies(kind, phase, lagging=3)
        waits = obstacle(kind, stands(kind, found), found, NOW_MS)
        assert waits is not None
        assert waits.passes
        assert waits.reason.startswith("3 of the platform's Workers")


@pytest.mark.accept("7.rotation.early")
@KIND_NAMES
def test_the_old_key_is_not_dropped_while_its_last_use_may_be_under_way(kind: Kind) -> None:
    found = replies(kind, Phase.USED)
    waits = obstacle(kind, stands(kind, found), found, NOW_MS - 1)
    assert waits is not None
    assert waits.passes
    known = replies(kind, Phase.KNOWN)
    waits = obstacle(kind, stands(kind, known), known, NOW_MS - 1)
    # Workers that were uploaded without the new key may still answer.
    assert (waits is not None) == (kind.name in ("invoke", "platform"))


@pytest.mark.accept("7.rotation.early")
def test_a_secrets_key_is_not_dropped_while_a_secret_needs_it() -> None:
    kind = KINDS["secrets"]
    found = replies(kind, Phase.USED, sealed={"secrets-1": 2, "secrets-2": 5})
    waits = obstacle(kind, stands(kind, found), found, NOW_MS)
    assert waits is not None
    assert waits.passes
    assert waits.reason == "2 secrets have yet to be sealed for secrets-2"


@pytest.mark.accept("7.rotation.early")
def test_a_master_key_is_not_dropped_while_deployments_report_with_it() -> None:
    kind = KINDS["telemetry"]
    found = dict(replies(kind, Phase.USED))
    counts = {"1": 4, "2": 9}
    found["telemetry-ingest"] = [
        replace(it, deployments=counts) for it in found["telemetry-ingest"]
    ]
    waits = obstacle(kind, stands(kind, found), found, NOW_MS)
    assert waits is not None
    assert not waits.passes
    assert "4 deployments" in waits.reason


def test_deployments_that_sign_with_the_old_master_key_are_named() -> None:
    kind = KINDS["telemetry"]
    found = dict(replies(kind, Phase.USED))
    behind, knows = (
        replace(it, deployment_ids=ids)
        for it, ids in zip(
            found["telemetry-ingest"],
            ({"1": ("dep_1",)}, {"1": ("dep_1", "dep_2"), "2": ("dep_3",)}),
            strict=True,
        )
    )
    found["telemetry-ingest"] = [behind, knows]
    assert deployments_of(kind, stands(kind, found), found) == ["dep_1", "dep_2"]
    assert deployments_of(KINDS["invoke"], stands(kind, found), found) == []
    silent = replies(kind, Phase.USED)
    assert deployments_of(kind, stands(kind, silent), silent) == []


def test_it_is_said_that_no_rotation_is_under_way() -> None:
    waits = Obstacle("3 lag")
    assert shown(Standing("k-1", None, Phase.OLD), None) == (
        "no rotation is under way: k-1 is the only key"
    )
    assert shown(Standing("k-1", None, Phase.OLD), waits).endswith("the only key. 3 lag")
    assert shown(Standing("k-1", "k-2", Phase.USED), None) == "used: nothing to wait for"
    assert shown(Standing("k-1", "k-2", Phase.OLD, moving=True), waits) == "old, moving on: 3 lag"


def test_a_deployer_that_does_not_answer_during_a_rotation_is_starting_again() -> None:
    assert NotSaid("deployer").while_rotating == "the deployer is starting again with its keys"
    assert NotSaid("gateway", " (1 of 2 processes do)").while_rotating == (
        "gateway does not say which keys it holds (1 of 2 processes do): is it running?"
    )


@pytest.mark.parametrize(
    ("key", "follows"),
    [("1", "2"), ("invoke-1", "invoke-2"), ("k9", "k10"), ("key", "key-2"), ("a-09", "a-10")],
)
def test_the_next_key_has_the_next_number(key: str, follows: str) -> None:
    assert next_id(key) == follows
