"""Which command goes to which handler.

Consumes: `cmd.deployer.deploy.*`, `cmd.deployer.tear-down.*`, `cmd.deployer.tear-down-agent.*`; the
requests `rpc.deployer.secrets`, `rpc.deployer.set-secrets` and `rpc.deployer.delete-secrets`.
Guarantees, retries and dead letters: see `webhost_kit.bus.commands`. A dead-lettered deploy command
fails its deployment; a dead-lettered teardown is left to the operator, who can replay it.
`rpc.deployer.reconcile`, `rpc.deployer.placement` and `rpc.deployer.revoke-telemetry-key` are an
operator's requests. For requests see `webhost_kit.bus.rpc`.
"""

from collections.abc import Awaitable, Callable

from webhost_contracts import subjects
from webhost_contracts.commands import DEPLOY, TEAR_DOWN, TEAR_DOWN_AGENT
from webhost_contracts.rpc import (
    PlacementReply,
    PlacementRequest,
    ReconcileReply,
    ReconcileRequest,
    RevokeTelemetryKeyReply,
    RevokeTelemetryKeyRequest,
)
from webhost_kit.bus.commands import CommandConsumer
from webhost_kit.bus.rpc import RequestServer

from webhost_deployer.handlers import Handlers
from webhost_deployer.secrets.handlers import SecretHandlers

SERVICE = "deployer"


def register(commands: CommandConsumer, handlers: Handlers) -> None:
    """Connect commands and handlers."""
    commands.subscribe(DEPLOY, handlers.deploy, on_dead=handlers.deploy_is_dead)
    commands.subscribe(TEAR_DOWN, handlers.tear_down)
    commands.subscribe(TEAR_DOWN_AGENT, handlers.tear_down_agent)


def register_requests(
    requests: RequestServer,
    handlers: SecretHandlers,
    reconcile: Callable[[ReconcileRequest], Awaitable[ReconcileReply]],
    place: Callable[[PlacementRequest], Awaitable[PlacementReply]],
    revoke: Callable[[RevokeTelemetryKeyRequest], Awaitable[RevokeTelemetryKeyReply]],
) -> None:
    """Connect requests and what replies to them."""
    requests.serve(subjects.RPC_SECRETS, handlers.secrets)
    requests.serve(subjects.RPC_SET_SECRETS, handlers.set_secrets)
    requests.serve(subjects.RPC_DELETE_SECRETS, handlers.delete_secrets)
    requests.serve(subjects.RPC_RECONCILE, reconcile)
    requests.serve(subjects.RPC_PLACEMENT, place)
    requests.serve(subjects.RPC_REVOKE_TELEMETRY_KEY, revoke)
