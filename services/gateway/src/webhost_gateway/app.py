"""The composition root: what the gateway consists of, and in which order it ends."""

from webhost_kit.auth import TokenVerifier
from webhost_kit.bus import connect
from webhost_kit.database import Database
from webhost_kit.keys import parse_signers
from webhost_kit.relay import Relay
from webhost_kit.service import Service

from webhost_gateway import projection
from webhost_gateway.admission import Admission
from webhost_gateway.invoke import Invoker, Limits
from webhost_gateway.lease import Lease
from webhost_gateway.outcomes import Outcomes
from webhost_gateway.routes import Door
from webhost_gateway.settings import Settings
from webhost_gateway.statements import Statements
from webhost_gateway.sweep import sweep
from webhost_gateway.totals import TotalsWatch
from webhost_gateway.upstream import Upstream

RELAY_LINGER_S = 0.02
"""Facts of a moment are published together: the calls that are under way go first."""


async def main(settings: Settings) -> None:
    """Run the gateway until it is told to stop."""
    dsn = settings.database_url.get_secret_value()
    signers = parse_signers(settings.invoke_private_keys.get_secret_value(), "INVOKE_PRIVATE_KEYS")
    service = Service("gateway")
    bus = await connect(settings.nats_url.get_secret_value(), "gateway")
    service.stack.push_async_callback(bus.close)
    database = Database(dsn)
    service.stack.push_async_callback(database.close)
    routes, position = await projection.load(database)
    projector = projection.projector(database, bus)
    follower = projection.follower(bus, routes)
    totals = TotalsWatch(bus)
    relay = Relay(dsn, bus, linger_s=RELAY_LINGER_S)
    verifier = TokenVerifier(
        settings.issuer,
        audience=settings.jwt_audience,
        authorized_parties=settings.jwt_authorized_parties,
    )
    lease = Lease(database, ttl_s=settings.lease_ttl_s)
    service.stack.push_async_callback(lease.release)
    admitting, recording = Statements(dsn), Statements(dsn)
    service.stack.push_async_callback(admitting.close)
    service.stack.push_async_callback(recording.close)
    outcomes = Outcomes(recording)
    service.stack.push_async_callback(outcomes.drain)
    admission = Admission(admitting, lease, outcomes)
    upstream = Upstream(
        signers[0],
        connect_to=settings.workers_connect_to,
        first_byte_timeout_s=settings.first_byte_timeout_s,
    )
    service.stack.push_async_callback(upstream.close)
    invoker = Invoker(
        verifier=verifier,
        routes=routes,
        follower=follower,
        totals=totals,
        admission=admission,
        outcomes=outcomes,
        upstream=upstream,
        limits=Limits(
            tiers=settings.tiers(),
            timeout_s=settings.invoke_timeout_s,
            heartbeat_s=settings.heartbeat_s,
            agent_requests_per_minute=settings.agent_requests_per_minute,
        ),
    )
    door = Door(invoke=invoker.answer, stream=invoker.stream, origins=settings.cors_allowed_origins)
    service.door(door, settings.listen)
    service.operations_door(settings.ops_listen)
    service.work("database", database.watch())
    service.work("issuer", verifier.watch())
    service.work("projection", projector.run())
    service.work("routes", follower.run(position))
    service.work("totals", totals.run())
    service.work("lease", lease.run())
    service.work("admission", admission.run())
    service.work("outcomes", outcomes.run())
    service.work("relay", relay.run())
    service.work("sweep", sweep(database))
    for name, check in {
        "database": database.check,
        "lease": lease.check,
        "bus": bus.check,
        "routes": follower.check,
        "projection": projector.check,
        "totals": totals.check,
        "relay": relay.check,
        "issuer": verifier.check,
    }.items():
        service.readiness.add(name, check)
    await service.run()
