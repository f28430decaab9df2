"""The composition root: the one place where adapters meet handlers."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from webhost_contracts import subjects
from webhost_kit.bus.connection import connect
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.database.row_security import acting_for, caller, everybody
from webhost_kit.eventsourcing.outbox_watch import OutboxWatch
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.http.auth import TokenVerifier
from webhost_kit.http.bodies import Bodies
from webhost_kit.periodic import every
from webhost_kit.process.keys_watch import KeysWatch
from webhost_kit.process.maintenance import Maintenance
from webhost_kit.process.service import App, Service

from webhost_api import (
    idempotency,
    openapi_paths,
    openapi_responses,
    operators,
    recovery,
    source,
    turns,
    uploads,
)
from webhost_api.artifacts import Artifacts
from webhost_api.collector import Collector
from webhost_api.commands import Commands
from webhost_api.failures import handle_problems
from webhost_api.feed import Feed
from webhost_api.http import Dependencies
from webhost_api.keys.access import Keys
from webhost_api.middleware import Cors, RequestId
from webhost_api.notices import Notices
from webhost_api.projection import History
from webhost_api.rate_limits import RateLimits, Rates
from webhost_api.reactor import Reactor
from webhost_api.resender import Resender
from webhost_api.retention import Retention
from webhost_api.routes import (
    agents,
    billing,
    deployments,
    history,
    invoice,
    keys,
    me,
    operator,
    secrets,
    series,
    usage,
)
from webhost_api.routes import uploads as uploads_routes
from webhost_api.secrets import Secrets
from webhost_api.settings import Settings
from webhost_api.users import Users

CLEANUP_EVERY_S = 3600.0
"""How often rows that nothing reads any more are removed."""


def _operation_id(route: APIRoute) -> str:
    return route.name


def build() -> FastAPI:
    """Return the FastAPI application; `front` sets its dependencies."""
    app = FastAPIOffline(
        title="webhost.systems",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url="/v1/docs",
        redoc_url=None,
        static_url="/v1/docs/assets",
        swagger_ui_oauth2_redirect_url="/v1/docs/oauth2-redirect",
        # By default the page sends the document's address to a validator on the Internet.
        swagger_ui_parameters={"validatorUrl": None},
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
    )
    bearer = HTTPBearer(
        bearerFormat="JWT or API key",
        description=openapi_paths.BEARER,
        auto_error=False,
    )
    for router in (
        me.router,
        agents.router,
        deployments.deploy_router,
        deployments.router,
        deployments.pointer_router,
        keys.router,
        uploads_routes.router,
        secrets.router,
        usage.router,
        series.router,
        invoice.router,
        billing.router,
        history.router,
    ):
        app.include_router(router, dependencies=[Depends(bearer)])
    app.include_router(billing.webhook_router)
    operators_token = HTTPBearer(
        scheme_name="OperatorToken", description=operators.BEARER, auto_error=False
    )
    app.include_router(operator.router, dependencies=[Depends(operators_token)])
    handle_problems(app)
    _describe_all_services(app, bearer)
    return app


def _describe_all_services(app: FastAPI, bearer: HTTPBearer) -> None:
    own = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            openapi_paths.add_to(own(), bearer=bearer.scheme_name)
            openapi_responses.complete(own())
        return own()

    app.openapi = whole


def front(deps: Dependencies, cors_allowed_origins: tuple[str, ...]) -> App:
    """Return the application behind the middleware that each request passes."""
    app = build()
    app.state.dependencies = deps
    without_cors = frozenset({billing.WEBHOOK_PATH})
    return RequestId(Cors(app, cors_allowed_origins, without_cors))


async def compose(service: Service, settings: Settings) -> None:
    """Add the api's parts to the service."""
    nats_url = settings.nats_url.get_secret_value()
    bus = service.add("bus", await connect(nats_url, service.name, replicas=settings.nats_replicas))
    needs = (subjects.EVENTS, subjects.COMMANDS, subjects.ARTIFACTS_STREAM)
    service.add("streams", StreamWatch(bus, needs))
    # Work in the background is about all users, a request about its own.
    database = service.add(
        "database", Database(settings.database_url.get_secret_value(), acts_for=everybody)
    )
    requests = Transactions(acting_for(database.engine, caller))
    verifier = service.add(
        "issuer",
        TokenVerifier(
            settings.issuer,
            jwks_url=settings.jwt_jwks_url,
            audience=settings.jwt_audience,
            authorized_parties=settings.jwt_authorized_parties,
        ),
    )
    own_facts = OwnFacts(
        service.name, database, bus, recovery.OWN_SUBJECTS, recovery.TYPES, recovery.recover
    )
    service.add("own-facts", own_facts)
    service.add("relay", Relay(database.dsn, bus, own_facts.check))
    service.add("outbox", OutboxWatch(database))
    commands = Commands(longest_call_ms=int(settings.longest_call_s * 1000))
    reactor = Reactor(keep_deployments=settings.keep_deployments, commands=commands)
    projector = service.add("reactor", reactor.projector(database, bus))
    tiers = settings.tiers()
    history_projector = service.add("history", History(tiers).projector(database, bus))
    feed = service.add("feed", Feed(database, per_user=settings.event_streams_per_user))
    service.add("notices", Notices(bus, feed))
    service.add("retention", Retention(database, tiers, every_s=settings.retention_every_s))
    projectors = [projector, history_projector]
    service.add("maintenance", Maintenance(service.name, bus, database, projectors, own_facts))
    service.add(
        "resender", Resender(database, bus, commands, tiers, after_s=settings.resend_after_s)
    )

    def clean_up(name: str, remove: Callable[[Database], Awaitable[None]]) -> None:
        service.work(name, lambda: every(CLEANUP_EVERY_S, lambda: remove(database), name))

    clean_up("idempotency", idempotency.remove_old)
    clean_up("uploads", uploads.remove_expired)
    rate_limits = RateLimits(
        Rates(
            reads=settings.reads_per_minute,
            writes=settings.writes_per_minute,
            deploys=settings.deploys_per_minute,
            registrations=settings.registrations_per_hour,
            registrations_per_address=settings.registrations_per_hour_and_address,
            unknown_keys_per_address=settings.unknown_keys_per_minute_and_address,
        )
    )
    service.add("collector", Collector(database, bus, grace_s=settings.artifact_grace_s))
    secret_store = Secrets(bus, settings.sealer)
    service.add(
        "keys",
        KeysWatch(service.name, bus, settings, lambda found: secret_store.seal_with(found.sealer)),
    )
    deps = Dependencies(
        database=requests,
        bus=bus,
        verifier=verifier,
        users=Users(database, requests, rate_limits),
        keys=Keys(database, rate_limits),
        rate_limits=rate_limits,
        changes=turns.changes(),
        reads=turns.reads(),
        artifacts=Artifacts(bus, requests),
        tiers=tiers,
        commands=commands,
        bodies=Bodies(),
        archives=uploads.room(),
        unpacker=uploads.Unpacker(),
        sources=source.room(),
        feed=feed,
        secrets=secret_store,
        response_keys=settings.keys,
        operators=settings.operators,
    )
    app = front(deps, settings.cors_allowed_origins)
    service.serve(app, settings.listen, trusted_proxies=settings.trusted_proxies)
