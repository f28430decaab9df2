"""The composition root: the one place where adapters meet handlers."""

from contextlib import AsyncExitStack

from webhost_kit.bus import connect
from webhost_kit.commands import broker, watch_consumers
from webhost_kit.database import Database
from webhost_kit.keys import public_keys
from webhost_kit.relay import Relay
from webhost_kit.service import Service

from webhost_deployer import cloudflare, scripts
from webhost_deployer.agent_work import AgentWork
from webhost_deployer.artifacts import Artifacts
from webhost_deployer.cloudflare import Cloudflare
from webhost_deployer.handlers import Handlers
from webhost_deployer.runner import Runner
from webhost_deployer.scripts import Surroundings
from webhost_deployer.settings import Settings
from webhost_deployer.signed_posts import SignedPosts
from webhost_deployer.steps import Steps
from webhost_deployer.subscribers import SERVICE, register
from webhost_deployer.sweep import Sweep


def provider_of(settings: Settings, database: Database, stack: AsyncExitStack) -> Cloudflare:
    """Return Cloudflare as these settings describe it; `stack` closes its connections."""
    posts = SignedPosts(settings.signers[0], settings.workers_connect_to)
    stack.push_async_callback(posts.close)
    sdk = cloudflare.client(
        settings.cloudflare_api_token.get_secret_value(), settings.cloudflare_api_base_url
    )
    stack.push_async_callback(sdk.close)
    return Cloudflare(
        sdk,
        settings.cloudflare_account_id,
        settings.routing,
        Surroundings(
            installation_id=settings.webhost_installation_id,
            telemetry_report_url=settings.control_plane_telemetry_report_url,
            invoke_public_keys=settings.public_invoke_keys,
            platform_public_keys=public_keys(settings.signers),
            session_idle_days=settings.session_idle_days,
        ),
        settings.master_keys,
        posts,
        database,
    )


async def main(settings: Settings) -> None:
    """Compose the deployer and run it until it is told to stop."""
    service = Service(SERVICE)
    nats_url = settings.nats_url.get_secret_value()
    bus = await connect(nats_url, SERVICE)
    service.stack.push_async_callback(bus.close)
    database = Database(settings.database_url.get_secret_value())
    service.stack.push_async_callback(database.close)

    provider = provider_of(settings, database, service.stack)
    steps = Steps({scripts.PROVIDER: provider}, Artifacts(bus))
    runner = Runner(database, AgentWork(database, steps))

    handlers = Handlers(database, settings.master_keys.newest, runner.wake)
    commands = broker(nats_url, SERVICE)
    consumers = register(commands, bus, handlers)
    await commands.start()
    service.stack.push_async_callback(commands.stop)

    relay = Relay(database.dsn, bus)
    service.readiness.add("bus", bus.check)
    service.readiness.add("database", database.check)
    service.readiness.add("relay", relay.check)
    service.work("database watch", database.watch())
    service.work("consumer watch", watch_consumers(bus, consumers))
    service.work("relay", relay.run())
    service.work("runner", runner.run())
    service.work("sweep", Sweep(database, bus, provider).run())
    service.operations_door(settings.ops_listen)
    await service.run()
