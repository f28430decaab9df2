"""Which reports are accepted, and in which order they are checked."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.signatures import telemetry_signature
from webhost_contracts.telemetry import NEWEST_MS, OLDEST_MS
from webhost_kit.errors import (
    InvalidRequest,
    Problem,
    Unauthenticated,
    Unauthorized,
    Unavailable,
)
from webhost_kit.keys import MasterKeys
from webhost_telemetry_ingest import decisions
from webhost_telemetry_ingest.decisions import Credentials
from webhost_telemetry_ingest.model import Deployment

NOW = 1_764_547_200_000
KEYS = MasterKeys({1: b"1" * 32, 2: b"2" * 32})
KNOWN = Deployment(1, "usr_a", "agt_a", "cloudflare", 2, 3)
REPORT: dict[str, Any] = {
    "userId": "usr_a",
    "agentId": "agt_a",
    "deploymentId": "dep_a",
    "runtimeProvider": "cloudflare",
    "timestampMs": NOW,
    "requests": 1,
    "llmTokens": 5,
    "computeMs": 7,
    "errors": 0,
}


def body(**changes: Any) -> bytes:
    return msgspec.json.encode({k: v for k, v in (REPORT | changes).items() if v != "absent"})


def signed(raw: bytes, version: int = 2, generation: int = 3, of: str = "dep_a") -> bytes:
    key = KEYS.telemetry_key(version, of, generation)
    assert key is not None
    return telemetry_signature(key, raw).encode()


def decide(
    raw: bytes,
    known: Deployment | None = KNOWN,
    signature: bytes | None = None,
    header_id: str = "dep_a",
) -> TelemetryAccepted:
    given = decisions.credentials(header_id, signed(raw) if signature is None else signature)
    decisions.authenticate(given, raw, known, KEYS)
    return decisions.accept(decisions.decode(raw), raw, given.deployment_id, known, NOW)


def problem(raw: bytes, **kwargs: Any) -> Problem:
    with pytest.raises(Problem) as raised:
        decide(raw, **kwargs)
    return raised.value


def test_a_signed_report_of_its_owner_is_accepted() -> None:
    raw = body(eventId="inv_1", toolCalls=2, provider={"model": "m"}, unknown="dropped")
    fact = decide(raw)
    assert fact.dedupe_key == "event:inv_1"
    assert (fact.llm_tokens, fact.compute_ms, fact.tool_calls) == (5, 7, 2)
    assert fact.provider == {"model": "m"}
    assert decisions.event_id_of(fact) == "inv_1"


def test_what_is_null_is_absent() -> None:
    fact = decide(body(eventId=None, traceId="t:1", toolCalls=None, provider=None))
    assert (fact.dedupe_key, fact.tool_calls, fact.provider) == ("trace:t:1", 0, None)
    assert decisions.event_id_of(fact) == "t:1"


def test_without_ids_the_body_is_its_own_key() -> None:
    first, second = decide(body()), decide(body(llmTokens=6))
    assert first.dedupe_key.startswith("body:")
    assert first.dedupe_key != second.dedupe_key


@pytest.mark.parametrize(("given", "kept"), [(0.25, "0.25"), ("1.10", "1.10"), (3, "3.0")])
def test_the_reported_cost_is_kept_as_text(given: object, kept: str) -> None:
    assert decide(body(costUsdEstimated=given)).reported_cost_usd == kept


@pytest.mark.parametrize("deployment_id", [None, "", "dep a", "dep_a\n", "d" * 129, "dep.é"])
def test_an_unusable_deployment_header_is_a_bad_credential(deployment_id: str | None) -> None:
    with pytest.raises(Unauthenticated):
        decisions.credentials(deployment_id, b"v1=00")


@pytest.mark.accept("6.credentials")
def test_all_bad_credentials_look_the_same() -> None:
    raw = body()
    refused = [
        problem(raw, signature=signed(raw) + b"0"),
        problem(raw, signature=signed(raw).upper()),
        problem(raw, signature=signed(raw + b" ")),
        problem(raw, signature=signed(raw).removeprefix(b"v1=")),
        problem(raw, signature="v1=ü".encode()),
        problem(raw, signature=signed(raw, of="dep_b")),
        problem(raw, signature=signed(raw, version=1)),
        problem(raw, signature=signed(raw, generation=1)),
        problem(raw, known=None),
    ]
    with pytest.raises(Unauthenticated) as missing:
        decisions.credentials("dep_a", None)
    for one in refused:
        assert isinstance(one, Unauthenticated)
        assert (one.message, one.details) == (missing.value.message, missing.value.details)


@pytest.mark.accept("7.rotation.revoked")
def test_the_next_key_is_good_before_the_revocation_and_the_old_one_is_not_behind_it() -> None:
    raw = body()
    before, after = KNOWN, replace(KNOWN, version=2, key_version=1, key_generation=4)
    for known, version, generation, good in (
        *((before, 2, 3, True), (before, 1, 4, True), (before, 2, 4, True), (before, 1, 3, False)),
        *((before, 2, 2, False), (before, 2, 5, False)),
        *((after, 2, 3, False), (after, 1, 4, True), (after, 2, 4, False), (after, 2, 5, True)),
    ):
        signature = signed(raw, version, generation)
        if good:
            assert decide(raw, known=known, signature=signature)
        else:
            one = problem(raw, known=known, signature=signature)
            assert isinstance(one, Unauthenticated), (version, generation)


@pytest.mark.parametrize("version", [1, 2])
def test_an_unknown_deployment_may_be_news_on_its_way(version: int) -> None:
    raw = body()
    one = problem(raw, known=None, signature=signed(raw, version, 1))
    assert isinstance(one, Unavailable)
    assert one.retryable
    assert one.retry_after_s is not None


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"requests": "absent"}, ["requests"]),
        ({"requests": -1}, ["requests"]),
        ({"llmTokens": 10**9 + 1}, ["llmTokens"]),
        ({"computeMs": 1.5}, ["computeMs"]),
        ({"errors": True}, ["errors"]),
        ({"errorClass": "weather"}, ["errorClass"]),
        ({"eventId": "a\x00b"}, ["eventId"]),
        ({"traceId": ""}, ["traceId"]),
        ({"costUsdEstimated": "1e5"}, ["costUsdEstimated"]),
        ({"costUsdEstimated": "1.5\n"}, ["costUsdEstimated"]),
        ({"provider": "text"}, ["provider"]),
        ({"provider": {"a": "x" * 4096}}, ["provider"]),
    ],
)
def test_a_wrong_shape_is_named(changes: dict[str, Any], path: list[str]) -> None:
    one = problem(body(**changes))
    assert isinstance(one, InvalidRequest)
    assert one.details["issues"][0]["path"] == path


@pytest.mark.parametrize("depth", [40, 1_000, 30_000])
def test_a_deeply_nested_provider_is_refused(depth: int) -> None:
    raw = body()[:-1] + b',"provider":{"a":' + b"[" * depth + b"]" * depth + b"}}"
    assert isinstance(problem(raw), InvalidRequest)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"userId":"\xff"}', b"[]", b"null"])
def test_what_is_no_report_is_refused(raw: bytes) -> None:
    assert isinstance(problem(raw), InvalidRequest)


@pytest.mark.parametrize(
    "changes",
    [
        {"userId": "usr_b"},
        {"agentId": "agt_b"},
        {"runtimeProvider": "agentcore"},
        {"deploymentId": "dep_b"},
    ],
)
def test_a_foreign_attribution_is_refused(changes: dict[str, Any]) -> None:
    one = problem(body(**changes))
    assert isinstance(one, Unauthorized)
    assert one.details == {"reason": "attribution_mismatch"}


@pytest.mark.accept("6.window")
@pytest.mark.parametrize("offset", [-OLDEST_MS, 0, NEWEST_MS])
def test_the_time_window_includes_its_ends(offset: int) -> None:
    assert decide(body(timestampMs=NOW + offset)).timestamp_ms == NOW + offset


@pytest.mark.accept("6.window")
@pytest.mark.parametrize("offset", [-OLDEST_MS - 1, NEWEST_MS + 1])
def test_outside_of_the_time_window_is_refused(offset: int) -> None:
    one = problem(body(timestampMs=NOW + offset))
    assert one.details["issues"][0]["path"] == ["timestampMs"]


@pytest.mark.accept("6.order")
def test_the_order_of_the_checks() -> None:
    """Each step fixes the first error, so that the next one shows."""
    late = NOW + NEWEST_MS + 1
    everything = {"requests": -1, "deploymentId": "dep_b", "userId": "usr_b", "timestampMs": late}
    raw = body(**everything)
    assert isinstance(problem(raw, signature=b"v1=0"), Unauthenticated)
    assert isinstance(problem(raw), InvalidRequest)
    raw = body(**everything | {"requests": 1})
    assert isinstance(problem(raw, known=None, signature=signed(raw, 1, 1)), Unauthorized)
    raw = body(userId="usr_b", timestampMs=late)
    assert isinstance(problem(raw, known=None, signature=signed(raw, 1, 1)), Unavailable)
    assert isinstance(problem(raw), Unauthorized)
    assert isinstance(problem(body(timestampMs=late)), InvalidRequest)


def test_credentials_keep_the_signature_as_bytes() -> None:
    assert decisions.credentials("dep_a", b"\xff") == Credentials("dep_a", b"\xff")
