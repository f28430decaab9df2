"""Publish and subscribe permissions on the bus: allow-lists, one user per service.

A service states only facts about what it owns, receives only its own commands and requests, sends
only the requests that it needs, and receives only the replies to them. It reads the streams that
it folds, and no other; none can change or delete a stream, and only the api purges one, that of
artifacts. Replies that the server sends are not checked: this limits mistakes, and does not contain
a service that was taken over. `operator`, for tools and tests, may do everything.
"""

from dataclasses import dataclass

from webhost_contracts import subjects

from webhost_local.nats_server import NatsUser

OPERATOR = "operator"

# The object store's client asks which stream holds its subjects.
_FIND_STREAM = "$JS.API.STREAM.NAMES"

# Everybody declares the streams, looks whether they are as declared, and makes again what was
# deleted. Making one that is there changes nothing.
_PUBLISH = tuple(
    f"$JS.API.STREAM.{verb}.{stream}"
    for verb in ("CREATE", "INFO")
    for stream in (
        *(subjects.EVENTS, subjects.USAGE, subjects.COMMANDS, subjects.DEAD_LETTERS),
        *(subjects.TOTALS_STREAM, subjects.ARTIFACTS_STREAM),
    )
)
# Where an operator's tools await replies; every service takes requests of theirs.
_TO_OPERATOR = f"_INBOX.{OPERATOR}.>"
_TO_API = "_INBOX.api.>"


@dataclass(frozen=True)
class Permissions:
    """`reads` are streams, through consumers that cost nothing to lose."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


SERVICES: dict[str, Permissions] = {
    "api": Permissions(
        publish=(
            *("evt.*.user.>", "evt.*.agent.>", "cmd.deployer.>"),
            *(subjects.RPC_USAGE, subjects.RPC_RECENT_EVENTS),
            # An upload that broke off is removed before it is made again.
            *(
                f"$O.{subjects.ARTIFACTS_BUCKET}.>",
                f"$JS.API.STREAM.PURGE.{subjects.ARTIFACTS_STREAM}",
            ),
            _FIND_STREAM,
        ),
        subscribe=("rpc.api.>",),
        reads=(subjects.EVENTS, subjects.ARTIFACTS_STREAM),
    ),
    "deployer": Permissions(
        publish=(
            *("evt.*.deployment.>", "dead.cmd.deployer.>"),
            _FIND_STREAM,
            f"$JS.API.CONSUMER.DURABLE.CREATE.{subjects.COMMANDS}.>",
            f"$JS.ACK.{subjects.COMMANDS}.>",
        ),
        subscribe=("cmd.deployer.>", "rpc.deployer.>"),
        # Of EVENTS its own facts, which it compares its tables with.
        reads=(subjects.EVENTS, subjects.COMMANDS, subjects.ARTIFACTS_STREAM),
    ),
    "gateway": Permissions(
        publish=(f"usage.*.{subjects.GATEWAY}",),
        subscribe=("rpc.gateway.>",),
        reads=(subjects.EVENTS, subjects.TOTALS_STREAM),
    ),
    "telemetry-ingest": Permissions(
        publish=(f"usage.*.{subjects.TELEMETRY_INGEST}",),
        subscribe=("rpc.telemetry-ingest.>",),
        reads=(subjects.EVENTS,),
    ),
    "billing": Permissions(
        publish=(
            *("evt.*.account.>", f"$KV.{subjects.TOTALS_BUCKET}.>"),
            _TO_API,
        ),
        subscribe=("rpc.billing.>",),
        # Of EVENTS its own facts, which it compares its tables with.
        reads=(subjects.EVENTS, subjects.USAGE),
    ),
}


def users(passwords: dict[str, str]) -> list[NatsUser]:
    """All users of the stack's NATS; `passwords` by service name, and the operator's."""
    services = [
        NatsUser(
            name,
            passwords[name],
            publish=(
                *(*_PUBLISH, _TO_OPERATOR),
                *(*permissions.publish, *_reading(permissions.reads)),
            ),
            subscribe=(f"_INBOX.{name}.>", *permissions.subscribe),
        )
        for name, permissions in SERVICES.items()
    ]
    return [*services, NatsUser(OPERATOR, passwords[OPERATOR])]


def _reading(streams: tuple[str, ...]) -> list[str]:
    return [
        subject
        for stream in streams
        for subject in (
            f"$JS.API.STREAM.MSG.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>",
            f"$JS.API.CONSUMER.CREATE.{stream}",
            f"$JS.API.CONSUMER.CREATE.{stream}.>",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
            f"$JS.API.CONSUMER.INFO.{stream}.>",
            f"$JS.API.CONSUMER.DELETE.{stream}.>",
            f"$JS.FC.{stream}.>",
        )
    ]
