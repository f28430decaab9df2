"""The composition root: the one place where adapters meet handlers."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from webhost_kit import bus as buses
from webhost_kit.auth import TokenVerifier
from webhost_kit.database import Database
from webhost_kit.relay import Relay
from webhost_kit.service import App, Service

from webhost_api import idempotency
from webhost_api.artifacts import Artifacts
from webhost_api.http import House, handle_problems
from webhost_api.middleware import Cors, RequestId
from webhost_api.reactor import Reactor
from webhost_api.routes import agents, deployments, me, usage
from webhost_api.settings import Settings
from webhost_api.shapes.errors import ErrorAnswer
from webhost_api.users import Users

NAME = "api"

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "Refused; the code says why."},
    "5XX": {"model": ErrorAnswer, "description": "Failed on our side, or a part is away."},
}


def build() -> FastAPI:
    """Return the HTTP application; its house is still to be given to it."""
    app = FastAPI(
        title="webhost.systems",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)
    for door in (
        me.router,
        agents.router,
        deployments.deploy_router,
        deployments.router,
        usage.router,
    ):
        app.include_router(door, dependencies=[Depends(bearer)], responses=_ERRORS)
    handle_problems(app)
    return app


def front(house: House, cors_allowed_origins: tuple[str, ...]) -> App:
    """Return the application with everything that each request passes before it."""
    app = build()
    app.state.house = house
    return RequestId(Cors(app, cors_allowed_origins))


async def main(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    service = Service(NAME)
    bus = await buses.connect(settings.nats_url.get_secret_value(), NAME)
    service.stack.push_async_callback(bus.close)
    database = Database(settings.database_url.get_secret_value())
    service.stack.push_async_callback(database.close)
    verifier = TokenVerifier(
        settings.issuer,
        audience=settings.jwt_audience,
        authorized_parties=settings.jwt_authorized_parties,
    )
    relay = Relay(database.dsn, bus)
    reactor = Reactor(
        keep_deployments=settings.keep_deployments,
        longest_call_ms=settings.longest_call_s * 1000,
    ).projector(database, bus)
    house = House(
        database=database,
        bus=bus,
        verifier=verifier,
        users=Users(database),
        artifacts=Artifacts(bus),
        tiers=settings.tiers(),
    )

    service.work("database", database.watch())
    service.work("issuer", verifier.watch())
    service.work("relay", relay.run())
    service.work("reactor", reactor.run())
    service.work("idempotency", idempotency.sweep(database))
    service.readiness.add("database", database.check)
    service.readiness.add("bus", bus.check)
    service.readiness.add("relay", relay.check)
    service.readiness.add("reactor", reactor.check)
    service.readiness.add("issuer", verifier.check)
    service.door(front(house, settings.cors_allowed_origins), settings.listen)
    service.operations_door(settings.ops_listen)
    await service.run()
