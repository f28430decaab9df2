"""Pure: whether a report is accepted. The checks, in the contract's order.

`credentials` → `authenticate` → `decode` → `accept`. Each raises the Problem to answer the Worker
with. Bad credentials of any kind look the same.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from webhost_contracts import signatures, telemetry
from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.events.telemetry import dedupe_key
from webhost_contracts.telemetry import TelemetryReport
from webhost_kit.errors import InvalidRequest, Unauthenticated, Unauthorized, Unavailable
from webhost_kit.http import decoding
from webhost_kit.keys import MasterKeys

from webhost_telemetry_ingest.model import Deployment

FIRST_GENERATION = 1
"""The key generation of a deployment that is not known yet."""
MAX_DEPTH = 32
"""Levels of nesting in `provider`, so that every fold can read what is accepted."""

_DEPLOYMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")

_decoder = msgspec.json.Decoder(TelemetryReport)


@dataclass(frozen=True)
class Credentials:
    """What the headers say."""

    deployment_id: str
    signature: bytes


def credentials(deployment_id: str | None, signature: bytes | None) -> Credentials:
    """Return what the headers say. Raises Unauthenticated."""
    if deployment_id is None or signature is None or not _DEPLOYMENT_ID.fullmatch(deployment_id):
        raise _bad_credentials()
    return Credentials(deployment_id, signature)


def authenticate(
    given: Credentials, body: bytes, known: Deployment | None, keys: MasterKeys
) -> None:
    """Verify the signature of the raw body.

    A known deployment's own key version and generation apply. Its next generation, of any version,
    is good too: a front may have it before the news that the one before is revoked. For an unknown
    one the first generation of every available version is tried. Raises Unauthenticated.
    """

    def matches(version: int, generation: int) -> bool:
        key = keys.telemetry_key(version, given.deployment_id, generation)
        return key is not None and signatures.telemetry_signature_matches(
            key, body, given.signature
        )

    if known is not None and matches(known.key_version, known.key_generation):
        return
    generation = FIRST_GENERATION if known is None else known.key_generation + 1
    if not any(matches(version, generation) for version in keys.by_version):
        raise _bad_credentials()


def decode(body: bytes) -> TelemetryReport:
    """Return the report; unknown fields are dropped. Raises InvalidRequest with the place."""
    report = decoding.decode(_decoder, body)
    _check_texts(report)
    _check_provider(report.provider)
    return report


def accept(
    report: TelemetryReport, body: bytes, header_id: str, known: Deployment | None, now_ms: int
) -> TelemetryAccepted:
    """Return the fact that this report, signed and well-formed, is accepted at `now_ms`.

    Raises Unauthorized (`attribution_mismatch`), Unavailable for a deployment that is not
    known yet, InvalidRequest outside of the time window.
    """
    if report.deployment_id != header_id:
        raise _mismatch("Header and body do not name the same deployment.")
    if known is None:
        # Or no longer: its Worker may report for as long as anybody has its key.
        raise Unavailable("This deployment is not known yet; try again shortly.", fault="others")
    if (report.user_id, report.agent_id, report.runtime_provider) != (
        known.user_id,
        known.agent_id,
        known.runtime_provider,
    ):
        raise _mismatch("The deployment is not this user's, agent's or provider's.")
    if not -telemetry.OLDEST_MS <= report.timestamp_ms - now_ms <= telemetry.NEWEST_MS:
        raise InvalidRequest.at(
            ["timestampMs"], "Must lie within the last 35 days and the next 5 minutes."
        )
    cost = report.cost_usd_estimated
    return TelemetryAccepted(
        agent_id=report.agent_id,
        deployment_id=report.deployment_id,
        runtime_provider=report.runtime_provider,
        dedupe_key=dedupe_key(report.event_id, report.trace_id, hashlib.sha256(body).hexdigest()),
        timestamp_ms=report.timestamp_ms,
        requests=report.requests,
        llm_tokens=report.llm_tokens,
        compute_ms=report.compute_ms,
        errors=report.errors,
        tool_calls=report.tool_calls or 0,
        error_class=report.error_class,
        trace_id=report.trace_id,
        reported_cost_usd=None if cost is None else str(cost),
        provider=report.provider,
    )


def event_id_of(fact: TelemetryAccepted) -> str:
    """Return the event id for the receipt: the one reported, else the dedupe key's."""
    return fact.dedupe_key.partition(":")[2]


def _check_texts(report: TelemetryReport) -> None:
    # Postgres cannot store NUL in text, so a fold could not keep it.
    for name, value in (("eventId", report.event_id), ("traceId", report.trace_id)):
        if value is not None and not value.isprintable():
            raise InvalidRequest.at([name], "Must be printable.")
    cost = report.cost_usd_estimated
    if isinstance(cost, str) and not _DECIMAL.fullmatch(cost):
        raise InvalidRequest.at(["costUsdEstimated"], "Must be a number or a decimal string.")


def _check_provider(provider: dict[str, Any] | None) -> None:
    if provider is None:
        return
    level: list[Any] = [provider]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise InvalidRequest.at(["provider"], f"Must be nested at most {MAX_DEPTH} levels deep.")
    if len(msgspec.json.encode(provider)) > telemetry.MAX_PROVIDER_BYTES:
        raise InvalidRequest.at(["provider"], "Must be at most 4 KiB.")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast(dict[str, Any], value).values()
    return cast(list[Any], value) if isinstance(value, list) else ()


def _bad_credentials() -> Unauthenticated:
    return Unauthenticated("The telemetry credentials are missing or wrong.")


def _mismatch(message: str) -> Unauthorized:
    return Unauthorized(message, details={"reason": "attribution_mismatch"})
