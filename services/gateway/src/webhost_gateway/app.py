"""The composition root: what the gateway consists of, and in which order it ends."""

from functools import partial

from pydantic import SecretStr
from webhost_contracts import subjects
from webhost_kit.bus.connection import connect
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.engine import Database
from webhost_kit.database.statements import Statements
from webhost_kit.eventsourcing.unstored import UnstoredFacts
from webhost_kit.http.auth import TokenVerifier
from webhost_kit.process.keys_watch import KeysWatch
from webhost_kit.process.maintenance import Maintenance
from webhost_kit.process.service import Service
from webhost_kit.response_keys import ResponseKeys

from webhost_gateway import flow_control
from webhost_gateway.callers import Callers
from webhost_gateway.delegated import Sources
from webhost_gateway.invoke import Invoker
from webhost_gateway.ledger import quotas
from webhost_gateway.ledger.admission import Admission
from webhost_gateway.ledger.admission_statement import STATEMENT_TIMEOUT_S
from webhost_gateway.ledger.idempotency import Idempotency
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.ledger.reaper import Reaper
from webhost_gateway.ledger.retention import Retention
from webhost_gateway.ledger.usage_relay import UsageRelay
from webhost_gateway.refusals import Refusals
from webhost_gateway.routes import InvokeApp
from webhost_gateway.routing import projection
from webhost_gateway.routing.model import RouteTable
from webhost_gateway.routing.totals import TotalsWatch
from webhost_gateway.senders import SenderLimits, Senders
from webhost_gateway.settings import Settings
from webhost_gateway.upstream.worker import Upstream

ANSWERED_S = 5.0
"""Between the end of the longest call and that of its answer."""
NOT_FLUSHED = "-c synchronous_commit=off"
"""If a crash undoes a deletion, a fact is merely published twice."""


async def compose(service: Service, settings: Settings) -> None:
    """Add the gateway's parts to the service."""
    dsn = settings.database_url.get_secret_value()
    bus = service.add("bus", await connect(settings.nats_url.get_secret_value(), service.name))
    # Without USAGE or the totals it goes on: calls are counted later, and the last totals hold.
    service.add("streams", StreamWatch(bus, (subjects.EVENTS,)))
    database = service.add("database", Database(dsn))
    routes = RouteTable()
    projector = service.add("projection", projection.projector(database, bus))
    service.add("maintenance", Maintenance(service.name, bus, database, [projector]))
    memory = service.add("routes", projection.memory(bus, database, routes))
    totals = service.add("totals", TotalsWatch(bus))
    verifier = service.add(
        "issuer",
        TokenVerifier(
            settings.issuer,
            jwks_url=settings.jwt_jwks_url,
            audience=settings.jwt_audience,
            authorized_parties=settings.jwt_authorized_parties,
        ),
    )
    lease = service.add(
        "lease",
        Lease(
            database,
            ttl_s=settings.lease_ttl_s,
            before_taking=partial(quotas.raise_to_counted, database, totals.requests),
        ),
    )
    publishing = service.add(
        "publishing", Statements(dsn, "gateway publishing", options=NOT_FLUSHED)
    )
    relay = UsageRelay(publishing, bus, lease)
    recording = Statements(dsn, "gateway recording")
    outcomes = Outcomes(recording, lease, relay.wake)
    reaping = service.add("reaping", Statements(dsn, "gateway reaping"))
    service.add("reaper", Reaper(reaping, lease, outcomes, relay.wake_from_start))
    service.add("relay", relay)
    service.add("recording", recording)
    service.add("outcomes", outcomes)
    admitting = service.add(
        "admitting", Statements(dsn, "gateway admitting", timeout_s=STATEMENT_TIMEOUT_S)
    )
    admitted = service.add("admission", Admission(admitting, lease, outcomes))
    service.add("retention", Retention(database, routes))
    keys = ResponseKeys.parse(settings.response_keys.get_secret_value())
    repeating = service.add("repeating", Statements(dsn, "gateway repeating"))
    ledger = service.add("idempotency", Idempotency(repeating, keys))
    upstream = service.add(
        "upstream",
        Upstream(
            settings.signer,
            connect_to=settings.workers_connect_to,
            first_byte_timeout_s=settings.first_byte_timeout_s,
            longest_call_s=settings.longest_call_s,
        ),
    )
    service.add(
        "keys",
        KeysWatch(service.name, bus, settings, lambda found: upstream.sign_with(found.signer)),
    )
    senders = Senders(
        callers=Callers(verifier, routes, memory),
        issuer=settings.issuer,
        sources=Sources.parse(_text(settings.delegation_secrets)),
        routes=routes,
        limits=SenderLimits(settings.tiers(), settings.agent_requests_per_minute),
        share=lease.shares.share,
    )
    invoker = Invoker(
        senders=senders,
        routes=routes,
        memory=memory,
        totals=totals,
        admission=admitted,
        outcomes=outcomes,
        ledger=ledger,
        refusals=Refusals(service.add("refusals", UnstoredFacts(bus)), routes),
        upstream=upstream,
        answers=flow_control.budget_of(settings.answer_bytes_in_flight),
        timeout_s=settings.longest_call_s,
        heartbeat_s=settings.heartbeat_s,
    )
    app = InvokeApp(
        invoke=invoker.answer,
        stream=invoker.stream,
        delegated=invoker.delegated,
        origins=settings.cors_allowed_origins,
    )
    service.serve(
        app,
        settings.listen,
        trusted_proxies=settings.trusted_proxies,
        grace_s=settings.longest_call_s + ANSWERED_S,
    )


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
