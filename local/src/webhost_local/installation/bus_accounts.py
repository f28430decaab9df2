"""Who may do what on the bus: an account for each service and for each stream.

What a service sends reaches a stream, or another service, only through an import of its account,
and so does the reply subject that it names: the server's answers, and what a consumer delivers,
stay in the account of whoever asked. An account of a stream has no client and no other subject.
So a service that was taken over states, commands, asks, reads and removes what is listed here and
nothing else. `operator`, for tools and tests, may do everything. (docs/adr/0015)

Each service's user has an allow-list besides, of the same: the server refuses, says so and logs
what is not on it, which in an account would only find nobody.

`python -m webhost_local.installation.bus_accounts` prints them for a server's configuration.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webhost_contracts import maintenance, subjects

from webhost_local.installation.nats_config import Account, Export, Import, Kind, NatsUser
from webhost_local.installation.services import OPERATOR, SERVICES

STREAMS = {
    subjects.EVENTS: subjects.ALL_EVENTS,
    subjects.USAGE: subjects.ALL_USAGE,
    subjects.COMMANDS: subjects.ALL_COMMANDS,
    subjects.DEAD_LETTERS: subjects.ALL_DEAD_LETTERS,
    subjects.TOTALS_STREAM: f"$KV.{subjects.TOTALS_BUCKET}.>",
    subjects.ARTIFACTS_STREAM: f"$O.{subjects.ARTIFACTS_BUCKET}.>",
}
"""Every stream with its subjects. The name of a stream is that of its account too."""

_BUCKETS = (subjects.ARTIFACTS_STREAM,)
"""What is read by the object store's client: it looks for the stream, and is pushed to."""

_LONGEST_PULL = "2m"
"""A request for messages is forgotten this long after the last of them, or the last heartbeat."""
_LONGEST_SILENCE = "15m"
"""The same for an operator's request, which a rebuild answers line by line."""


_LOOKS = tuple(
    f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "CREATE") for stream in STREAMS
)
"""Every service looks for all streams: of one that is not for it, it learns that nobody answers."""
_REPLIES = "_R_.>"
"""Where the server wants requests from other accounts answered. `allow_responses` would remember
each message that has a reply subject, as all that a stream delivers have.
"""


@dataclass(frozen=True)
class Access:
    """What one service may do.

    `states` are subjects of streams that it publishes to, `reads` streams, `asks` requests to
    other services. It makes the streams `makes` if they are missing, and sees whether those of
    `needs` are there. `removes` are streams that it may remove messages from: its own alone.
    """

    states: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()


ACCESS: dict[str, Access] = {
    "api": Access(
        states=(
            *("evt.*.user.>", "evt.*.agent.>", "evt.*.key.>", "cmd.deployer.>"),
            STREAMS[subjects.ARTIFACTS_STREAM],
        ),
        # Of USAGE the gateway's facts, of which it tells the users who watch their agents.
        reads=(subjects.EVENTS, subjects.USAGE, subjects.ARTIFACTS_STREAM),
        asks=(
            *(subjects.RPC_USAGE, subjects.RPC_RECENT_EVENTS, subjects.RPC_USAGE_FEED),
            *(subjects.RPC_USAGE_SERIES, subjects.RPC_INVOICE),
            *(subjects.RPC_CHECKOUT, subjects.RPC_WEBHOOK, subjects.RPC_SUBSCRIPTION),
            *(subjects.RPC_SECRETS, subjects.RPC_SET_SECRETS, subjects.RPC_DELETE_SECRETS),
        ),
        makes=(subjects.EVENTS, subjects.ARTIFACTS_STREAM),
        needs=(subjects.COMMANDS,),
        # An upload that broke off is removed before it is made again.
        removes=(subjects.ARTIFACTS_STREAM,),
    ),
    "deployer": Access(
        states=("evt.*.deployment.>", "evt.*.secret.>", "dead.cmd.deployer.>"),
        # Of EVENTS its own facts, which it compares its tables with.
        reads=(subjects.EVENTS, subjects.COMMANDS, subjects.ARTIFACTS_STREAM),
        makes=(subjects.COMMANDS, subjects.DEAD_LETTERS),
        handles=(subjects.COMMANDS,),
    ),
    "gateway": Access(
        states=(f"usage.*.{subjects.GATEWAY}", "evt.*.delegation.>"),
        reads=(subjects.EVENTS, subjects.TOTALS_STREAM),
        needs=(subjects.USAGE,),
    ),
    "telemetry-ingest": Access(
        states=(f"usage.*.{subjects.TELEMETRY_INGEST}", "evt.*.report.>"),
        reads=(subjects.EVENTS,),
        needs=(subjects.USAGE,),
    ),
    "billing": Access(
        states=("evt.*.account.>", "evt.*.period.>", STREAMS[subjects.TOTALS_STREAM]),
        # Of EVENTS its own facts, which it compares its tables with.
        reads=(subjects.EVENTS, subjects.USAGE),
        makes=(subjects.USAGE, subjects.TOTALS_STREAM),
    ),
}


@dataclass(frozen=True)
class Grant:
    """What `to` may send to `owner`, or is sent by it. `silence`: one answer, or several."""

    owner: str
    subject: str
    to: str
    kind: Kind = "service"
    silence: str | None = None


def grants() -> list[Grant]:
    """Return everything that crosses from one account into another."""
    found = [grant for name in SERVICES for grant in _of_service(name, ACCESS[name])]
    return [*found, *_of_operator()]


def accounts(passwords: Mapping[str, str]) -> dict[str, Account]:
    """All accounts of the stack's NATS; `passwords` by service name, and the operator's."""
    exports: dict[str, dict[tuple[Kind, str, str | None], list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    imports: dict[str, list[Import]] = defaultdict(list)
    for grant in dict.fromkeys(grants()):
        exports[grant.owner][grant.kind, grant.subject, grant.silence].append(grant.to)
        imports[grant.to].append(Import(grant.kind, grant.owner, grant.subject))
    return {
        name: Account(
            users=[_user(name, passwords[name], imports[name])] if name in passwords else [],
            jetstream=name in STREAMS,
            exports=[Export(*export, to) for export, to in exports[name].items()],
            imports=imports[name],
        )
        for name in (*STREAMS, *SERVICES, OPERATOR)
    }


def _user(name: str, password: str, imports: Iterable[Import]) -> NatsUser:
    if name not in SERVICES:
        return NatsUser(name, password)
    sends = [each.subject for each in imports if each.kind == "service"]
    return NatsUser(
        name,
        password,
        publish=list(dict.fromkeys((*sends, *_LOOKS, _REPLIES))),
        subscribe=[f"_INBOX.{name}.>", f"rpc.{name}.>"],
    )


def _of_service(name: str, access: Access) -> Iterator[Grant]:
    # Whoever imports this is not told by the server that its account has no streams.
    yield Grant(subjects.EVENTS, "$JS.API.INFO", name)
    for subject in access.states:
        yield Grant(_stream_of(subject), subject, name)
    for stream in dict.fromkeys((*access.needs, *access.makes, *access.reads)):
        yield Grant(stream, f"$JS.API.STREAM.INFO.{stream}", name)
    for stream in access.makes:
        yield Grant(stream, f"$JS.API.STREAM.CREATE.{stream}", name)
    for stream in access.removes:
        yield Grant(stream, f"$JS.API.STREAM.PURGE.{stream}", name)
    for stream in access.reads:
        yield from _reading(stream, name)
    for stream in access.handles:
        yield Grant(stream, f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>", name)
        yield Grant(stream, f"$JS.ACK.{stream}.>", name)
    for subject in access.asks:
        yield Grant(subject.split(".")[1], subject, name)


def _reading(stream: str, name: str) -> Iterator[Grant]:
    for request in (
        f"STREAM.MSG.GET.{stream}",
        f"CONSUMER.CREATE.{stream}",
        f"CONSUMER.CREATE.{stream}.>",
        f"CONSUMER.INFO.{stream}.>",
    ):
        yield Grant(stream, f"$JS.API.{request}", name)
    yield Grant(stream, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>", name, silence=_LONGEST_PULL)
    if stream in _BUCKETS:
        yield Grant(stream, "$JS.API.STREAM.NAMES", name)
        yield Grant(stream, f"$JS.FC.{stream}.>", name)
        yield Grant(stream, f"_INBOX.{name}.>", name, "stream")


def _of_operator() -> Iterator[Grant]:
    yield Grant(subjects.EVENTS, "$JS.API.INFO", OPERATOR)
    yield Grant(subjects.EVENTS, "$JS.API.STREAM.NAMES", OPERATOR)
    for stream, pattern in STREAMS.items():
        yield Grant(stream, pattern, OPERATOR)
        yield Grant(stream, "_INBOX.>", OPERATOR, "stream")
        for request in (
            *(f"STREAM.{verb}.{stream}" for verb in ("CREATE", "INFO", "UPDATE")),
            *(f"STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE", "MSG.DELETE")),
            *(f"CONSUMER.{verb}.{stream}" for verb in ("NAMES", "LIST")),
            *(f"CONSUMER.{verb}.{stream}.>" for verb in ("DELETE", "DURABLE.CREATE")),
        ):
            yield Grant(stream, f"$JS.API.{request}", OPERATOR)
        for subject in (f"$JS.ACK.{stream}.>", f"$JS.FC.{stream}.>"):
            yield Grant(stream, subject, OPERATOR)
        yield from (grant for grant in _reading(stream, OPERATOR) if grant.kind == "service")
    for service in maintenance.SERVICES:
        yield Grant(service, f"rpc.{service}.>", OPERATOR, silence=_LONGEST_SILENCE)


def _stream_of(subject: str) -> str:
    [stream] = [
        stream for stream, pattern in STREAMS.items() if subject.startswith(pattern.rstrip(">"))
    ]
    return stream


def password_variable(user: str) -> str:
    """Return the variable of a server's environment that holds a user's password."""
    return f"PASSWORD_OF_{user.upper().replace('-', '_')}"


def configuration() -> str:
    """Return the accounts as a server's configuration has them: each privilege on a line."""
    # Without these the server does not start.
    passwords = {user: f"${password_variable(user)}" for user in (*SERVICES, OPERATOR)}
    declared = {name: account.declaration() for name, account in accounts(passwords).items()}
    text = _laid_out({"accounts": declared})
    # In quotes the server would take a variable for the password itself.
    return re.sub(r'"(\$PASSWORD_OF_[A-Z_]+)"', r"\1", text) + "\n"


def _laid_out(value: Any, margin: str = "") -> str:
    """Return JSON with a line for each export, each import and each subject of an allow-list."""
    inner = f"{margin}  "
    match value:
        case {"service": _} | {"stream": _}:
            return json.dumps(value)
        case {**entries}:
            parts = [f"{json.dumps(key)}: {_laid_out(it, inner)}" for key, it in entries.items()]
            return f"{{\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}}}"
        case [_, *_]:
            parts = [_laid_out(it, inner) for it in value]
            return f"[\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}]"
        case _:
            return json.dumps(value)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m webhost_local.installation.bus_accounts",
        description="Print the accounts for a NATS server's configuration.",
    ).parse_args()
    sys.stdout.write(configuration())
