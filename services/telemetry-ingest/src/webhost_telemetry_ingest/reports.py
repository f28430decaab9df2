"""Handles one report: check it, make the fact durable, answer.

Consumes: headers and raw body. Emits: `telemetry.accepted.v1` to USAGE; for what is
rejected, see `rejections`.
Guarantees: the answer comes only after the fact is durable.
On replay (the same report again): recognised here while it is cached, and always in billing.
"""

from webhost_contracts import wire
from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.telemetry import TelemetryReceipt, TelemetryReport
from webhost_kit.clock import now_ms
from webhost_kit.errors import Problem, Unauthenticated
from webhost_kit.eventsourcing.unstored import envelope_of
from webhost_kit.keys import MasterKeys
from webhost_kit.process.tracing import Span

from webhost_telemetry_ingest import decisions, spans
from webhost_telemetry_ingest.batcher import ReportBatcher
from webhost_telemetry_ingest.decisions import Credentials
from webhost_telemetry_ingest.dedupe import DedupeCache
from webhost_telemetry_ingest.model import Deployment, Deployments
from webhost_telemetry_ingest.rate_limits import RateLimits
from webhost_telemetry_ingest.rejections import ACTOR, Rejections


class Reports:
    """Takes reports."""

    def __init__(
        self,
        keys: MasterKeys,
        deployments: Deployments,
        rate_limits: RateLimits,
        batcher: ReportBatcher,
        rejections: Rejections,
    ) -> None:
        self._keys = keys
        self._deployments = deployments
        self._rate_limits = rate_limits
        self._batcher = batcher
        self._dedupe = DedupeCache()
        self._rejections = rejections

    def verify_with(self, keys: MasterKeys) -> None:
        """Verify reports with these keys from now on."""
        self._keys = keys

    def credentials(
        self, address: str, deployment_id: str | None, signature: bytes | None, request_id: str
    ) -> Credentials:
        """Return what the headers say, before the body is read.

        Raises Unauthenticated, or RateLimited for an address that has failed too often.
        """
        try:
            self._rate_limits.check_failures(address, deployment_id)
            return decisions.credentials(deployment_id, signature)
        except Problem as problem:
            self._refused(problem, request_id, None, address, deployment_id, None, now_ms())
            raise

    def uncompleted(self, given: Credentials, address: str) -> None:
        """Take note of a body that came too slowly, or whose sender left before its end."""
        self._rate_limits.count_failure(address, given.deployment_id)

    async def accept(
        self,
        given: Credentials,
        body: bytes,
        address: str,
        request_id: str,
        span: Span,
    ) -> TelemetryReceipt:
        """Accept a report and make it durable, or raise the Problem that says why not.

        `span` is the request's own, in the trace of the call that it reports.
        """
        at_ms = now_ms()
        known = self._deployments.by_id.get(given.deployment_id)
        report, fact = self._decide(given, body, known, address, request_id, span, at_ms)
        user_id = report.user_id
        key = (fact.deployment_id, fact.dedupe_key)
        deduped = key in self._dedupe
        if not deduped:
            envelope = envelope_of(
                fact,
                user_id=user_id,
                at_ms=at_ms,
                actor=ACTOR,
                request_id=request_id,
                traceparent=span.traceparent,
            )
            await self._batcher.add(user_id, wire.encode(envelope))
            self._dedupe.add(key)
            if span.recorded:
                spans.of_agent(report, fact, span.caller, at_ms)
        return TelemetryReceipt(
            accepted=True, event_id=decisions.event_id_of(fact), deduped=deduped
        )

    def _decide(
        self,
        given: Credentials,
        body: bytes,
        known: Deployment | None,
        address: str,
        request_id: str,
        span: Span,
        at_ms: int,
    ) -> tuple[TelemetryReport, TelemetryAccepted]:
        authenticated = False
        try:
            decisions.authenticate(given, body, known, self._keys)
            authenticated = True
            # It comes from a front of ours, which passes on what the gateway's call came with.
            span.accept(keeps_flag=True)
            if known is not None:
                self._rate_limits.acquire_report(given.deployment_id, known.user_id)
            report = decisions.decode(body)
            fact = decisions.accept(report, body, given.deployment_id, known, at_ms)
            return report, fact
        except Problem as problem:
            attributed = (given.deployment_id, known) if authenticated and known else None
            self._refused(
                problem,
                request_id,
                span.traceparent,
                address,
                given.deployment_id,
                attributed,
                at_ms,
            )
            raise

    def _refused(
        self,
        problem: Problem,
        request_id: str,
        traceparent: str | None,
        address: str,
        deployment_id: str | None,
        attributed: tuple[str, Deployment] | None,
        at_ms: int,
    ) -> None:
        if isinstance(problem, Unauthenticated):
            self._rate_limits.count_failure(address, deployment_id)
        self._rejections.note(problem, request_id, traceparent, attributed, at_ms)
