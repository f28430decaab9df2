"""Who may say and hear what on the bus: allow-lists, one user per service.

A service states only facts about what it owns, takes only its own commands, and answers only
its own questions. `operator` is the person at this machine: tools and tests, everything.
"""

from dataclasses import dataclass

from webhost_local.nats_server import NatsUser

OPERATOR = "operator"

# JetStream's requests, acknowledgements and flow control, answers, and parked messages.
_PUBLISH = ("$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "_INBOX.>", "dead.>")
_SUBSCRIBE = ("_INBOX.>",)


@dataclass(frozen=True)
class Permissions:
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


SERVICES: dict[str, Permissions] = {
    "api": Permissions(
        publish=("evt.*.user.>", "evt.*.agent.>", "cmd.deployer.>", "ask.>", "$O.>"),
        subscribe=("ask.api.>",),
    ),
    "deployer": Permissions(
        publish=("evt.*.deployment.>", "evt.*.secret.>"),
        subscribe=("cmd.deployer.>", "ask.deployer.>"),
    ),
    "gateway": Permissions(
        publish=("usage.>", "ask.>"),
        subscribe=("ask.gateway.>",),
    ),
    "telemetry-ingest": Permissions(
        publish=("usage.>",),
        subscribe=("ask.telemetry-ingest.>",),
    ),
    "billing": Permissions(
        publish=("evt.*.account.>", "evt.*.period.>", "$KV.TOTALS.>"),
        subscribe=("ask.billing.>",),
    ),
}


def users(passwords: dict[str, str]) -> list[NatsUser]:
    """All users of the stack's NATS; `passwords` by service name, and the operator's."""
    services = [
        NatsUser(
            name,
            passwords[name],
            publish=_PUBLISH + permissions.publish,
            subscribe=_SUBSCRIBE + permissions.subscribe,
        )
        for name, permissions in SERVICES.items()
    ]
    return [*services, NatsUser(OPERATOR, passwords[OPERATOR])]
