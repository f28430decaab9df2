"""The composition root: the one place where adapters meet handlers."""

import os
import signal
from functools import cache, partial

from webhost_contracts import subjects
from webhost_kit.bus import artifacts
from webhost_kit.bus.commands import CommandConsumer
from webhost_kit.bus.connection import connect
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.outbox_watch import OutboxWatch
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.keys import public_keys
from webhost_kit.periodic import every
from webhost_kit.process.keys_watch import KeysWatch
from webhost_kit.process.maintenance import Maintenance
from webhost_kit.process.service import Service

from webhost_deployer.capacity import Capacity
from webhost_deployer.cloudflare import scripts
from webhost_deployer.cloudflare.account import Account
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.layouts import DispatchNamespace, Layout, PlainAccount
from webhost_deployer.cloudflare.namespaces import UserWorkers
from webhost_deployer.cloudflare.provider import Cloudflare
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.reconciliation import Reconciliation
from webhost_deployer.cloudflare.scripts import WorkerEnvironment
from webhost_deployer.cloudflare.sdk import Sdk
from webhost_deployer.cloudflare.worker_client import WorkerClient
from webhost_deployer.executor import Executor
from webhost_deployer.handlers import Handlers
from webhost_deployer.placement import Placements
from webhost_deployer.recovery import OWN_SUBJECTS, TYPES, recover
from webhost_deployer.rotation.keys_in_force import KeysInForce
from webhost_deployer.runner import Runner
from webhost_deployer.secrets import store
from webhost_deployer.secrets.handlers import SecretHandlers
from webhost_deployer.secrets.values import SecretValues
from webhost_deployer.settings import Settings
from webhost_deployer.steps import Steps
from webhost_deployer.subscribers import register, register_requests

NEEDS = (subjects.EVENTS, subjects.COMMANDS, subjects.DEAD_LETTERS, subjects.ARTIFACTS_STREAM)
CLEANUP_EVERY_S = 3600.0


def cloudflare_of(
    service: Service, settings: Settings, database: Database
) -> tuple[Cloudflare, Account]:
    """Return the Cloudflare provider for these settings; the service closes its connections."""
    account_id = settings.cloudflare_account_id
    installation_id = settings.webhost_installation_id
    sdk = Sdk(
        settings.cloudflare_api_token.get_secret_value(),
        settings.cloudflare_api_base_url,
        account_id,
        service.add("API budget", RateLimiter(database, f"cloudflare {account_id}")),
    )
    api = CloudflareApi(sdk, settings.cloudflare_zone_id, installation_id)
    workers = WorkerClient(settings.signers[0], settings.workers_connect_to)
    environment = WorkerEnvironment(
        installation_id=installation_id,
        telemetry_report_url=settings.control_plane_telemetry_report_url,
        invoke_public_keys=settings.public_invoke_keys,
        platform_public_keys=public_keys(settings.signers),
        session_idle_days=settings.session_idle_days,
    )
    service.add("Cloudflare", sdk)
    service.add("Workers", workers)
    common = settings.routing, environment, settings.master_keys, settings.tiers()

    @cache
    def layout_of(namespace: str | None) -> Layout:
        if namespace is None:
            return PlainAccount(api, *common)
        user_workers = UserWorkers(sdk, namespace, installation_id)
        return DispatchNamespace(api, user_workers, *common, settings.egress)

    provider = Cloudflare(api, workers, settings.routing, environment, layout_of, database.dsn)
    namespaces = [] if settings.namespace is None else [settings.namespace]
    return provider, Account(api, [UserWorkers(sdk, name, installation_id) for name in namespaces])


async def compose(service: Service, settings: Settings) -> None:
    """Add the deployer's parts to the service."""
    nats_url = settings.nats_url.get_secret_value()
    bus = service.add("bus", await connect(nats_url, service.name, replicas=settings.nats_replicas))
    service.add("streams", StreamWatch(bus, NEEDS))
    database = service.add("database", Database(settings.database_url.get_secret_value()))
    provider, account = cloudflare_of(service, settings, database)
    capacity = Capacity(database, settings.most_deployments)
    secrets = SecretValues(database, settings.opener)
    steps = Steps({scripts.PROVIDER: provider}, partial(artifacts.read, bus), capacity, secrets)
    executor = Executor(database, steps, newest_key_version=settings.master_keys.newest)
    runner = service.add("runner", Runner(database, executor))
    own_facts = service.add(
        "own-facts", OwnFacts(service.name, database, bus, OWN_SUBJECTS, TYPES, recover)
    )
    service.add("relay", Relay(database.dsn, bus, own_facts.check))
    service.add("outbox", OutboxWatch(database))
    service.add("maintenance", Maintenance(service.name, bus, database, [], own_facts))
    service.work(
        "done operations",
        lambda: every(CLEANUP_EVERY_S, partial(store.forget_done, database), "done operations"),
    )
    every_s = settings.reconcile_every_s
    # What is left in a retired namespace still needs its front.
    refresh = partial(provider.refresh_installation, settings.namespace)
    reconciliation = service.add(
        "reconciliation",
        Reconciliation(
            database,
            bus,
            account,
            settings.routing,
            refresh,
            every_s=every_s,
            behind=own_facts.check,
        ),
    )
    keys = service.add(
        "keys in force",
        KeysInForce(database, provider, settings.opener, settings.namespace, runner.wake),
    )
    service.add("keys", KeysWatch(service.name, bus, settings, _start_anew, keys.complete))
    handlers = Handlers(
        database,
        settings.master_keys.newest,
        settings.cloudflare_dispatch_namespace,
        runner.wake,
    )
    commands = service.add("commands", CommandConsumer(nats_url, bus, service.name))
    register(commands, handlers)
    await commands.start()
    requests = service.add("requests", RequestServer(nats_url, service.name))
    register_requests(
        requests,
        SecretHandlers(database, runner.wake),
        reconciliation.reply,
        Placements(database, settings.cloudflare_dispatch_namespace).reply,
        keys.revoke,
    )
    await requests.start()


def _start_anew(_: Settings) -> None:
    """End this process, whose keys are in many hands; whoever supervises it starts it again, and
    what was interrupted is still due.
    """
    os.kill(os.getpid(), signal.SIGTERM)
