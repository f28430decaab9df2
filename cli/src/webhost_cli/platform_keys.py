"""`webhost keys rotate-platform`, for operators.

On a local stack it writes the keys where its services take them up, and goes on to the end.
Elsewhere it says which settings are to be changed next, once that is safe.
"""

import asyncio
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from nats.aio.client import Client
from webhost_contracts import maintenance, platform_keys, wire
from webhost_contracts.maintenance import KeysReply, Nothing
from webhost_contracts.platform_keys import Kind, Phase
from webhost_kit.clock import now_ms

from webhost_cli import bus, output, rotation
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import BusOption, JsonOption, data_dir_of
from webhost_cli.rotation import Replies, Standing, Unclear

_REPLIES_S = 2.0
_LOOK_EVERY_S = 1.0


class NotSaid(CommandError):
    """Not all of a service's processes said which keys they hold."""

    def __init__(self, service: str, of_all: str = "") -> None:
        message = f"{service} does not say which keys it holds{of_all}: is it running?"
        super().__init__(message, ExitCode.UNAVAILABLE)
        # That one has to start again to take up its keys.
        restarts = service == "deployer"
        self.while_rotating = (
            "the deployer is starting again with its keys" if restarts else message
        )


class KindName(StrEnum):
    """The kinds of platform keys."""

    TELEMETRY = "telemetry"
    INVOKE = "invoke"
    PLATFORM = "platform"
    SECRETS = "secrets"


def rotate_platform(
    kind: Annotated[KindName, typer.Argument(help="Which key is to be replaced.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where the new key is written, readable by you alone; not on a local stack.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show, and change nothing.")] = False,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a key of the platform's by a new one, without downtime.

    On a local stack it goes through all phases. Elsewhere it says which settings to change next,
    and refuses what would be too early. It may be stopped and run again at any time.
    """
    is_local = data_dir is not None or not os.environ.get("NATS_URL")
    if is_local and out is not None:
        message = "--out is not for a local stack: its services take up the new key themselves"
        raise CommandError(message, ExitCode.USAGE)
    url = bus.nats_url_of(data_dir)
    of_kind = platform_keys.KINDS[kind]
    if show:
        result = bus.run(_show(url, of_kind))
    elif is_local:
        result = bus.run(_rotate_here(url, of_kind, data_dir))
    else:
        result = bus.run(_next_elsewhere(url, of_kind, out))
    if as_json:
        output.print_json(result)
        return
    for place in result["set"]:
        names = ", ".join(place["keys"])
        output.say(f"set {place['setting']} of {place['service']} to the keys {names}")
    output.say(result["message"])
    if show and result["new"] is not None:
        for deployment_id in result["deployments"]:
            output.say(deployment_id)


async def _show(url: str, kind: Kind) -> dict[str, Any]:
    async with bus.connected(url) as client:
        replies = await _replies(client, kind, {})
        at = _standing(kind, replies)
    waits = rotation.obstacle(kind, at, replies, now_ms())
    return _result(kind, at, replies, rotation.shown(at, waits))


async def _rotate_here(url: str, kind: Kind, data_dir: Path | None) -> dict[str, Any]:
    from webhost_local import kept_identities, state

    directory = data_dir_of(data_dir)
    said = ""
    with directory.rotating():
        known = kept_identities.load_or_make(directory)
        kept_identities.write_keys(directory, known)
        under_way = known.ring(kind).new is not None
        while True:
            processes = [it.name for it in state.read(directory, ready=False).processes]
            count = {
                service: sum(it == service or it.startswith(f"{service}-") for it in processes)
                for service in rotation.services_of(kind)
            }
            ring = kept_identities.load_or_make(directory).ring(kind)
            reason, at, replies = await _look(url, kind, count, ring.phase)
            if reason is None and at is not None:
                waits = rotation.obstacle(kind, at, replies, now_ms(), rotation.SETTLE_HERE_MS)
                if waits is not None and not waits.passes:
                    return _result(kind, at, replies, f"{at.new} is in use. {waits.reason}")
                # Workers that lag behind a single key: an earlier rotation is not at its end.
                under_way = under_way or waits is not None
                if waits is None:
                    if at.phase is Phase.OLD and under_way:
                        return _result(kind, at, replies, f"done: {at.old} is the only key")
                    kept_identities.advance(directory, kind)
                    under_way = True
                    continue
                reason = waits.reason
            if reason is not None and reason != said:
                said = reason
                output.aside(f"{Phase(ring.phase).name.lower()}: {reason}")
            await asyncio.sleep(_LOOK_EVERY_S)


async def _look(
    url: str, kind: Kind, count: Mapping[str, int], phase: int
) -> tuple[str | None, Standing | None, Replies]:
    """Return what the processes say, or why that is not what they are to say in this phase."""
    try:
        async with bus.connected(url) as client:
            replies = await _replies(client, kind, count)
            at = _standing(kind, replies)
    except NotSaid as error:
        return error.while_rotating, None, {}
    except CommandError as error:
        return str(error), None, {}
    if at.moving or at.phase != phase:
        return "the services take up their keys", None, replies
    return None, at, replies


async def _next_elsewhere(url: str, kind: Kind, out: Path | None) -> dict[str, Any]:
    said = ""
    while True:
        async with bus.connected(url) as client:
            replies = await _replies(client, kind, {})
            at = _standing(kind, replies)
        if at.moving:
            wanted = _settings(kind, at, Phase(at.phase + 1))
            named = "; ".join(f"{it['setting']} of {it['service']}: {it['keys']}" for it in wanted)
            raise CommandError(f"not all processes have taken up their keys yet. Wanted: {named}")
        waits = rotation.obstacle(kind, at, replies, now_ms())
        if waits is None:
            break
        if not waits.passes:
            raise CommandError(waits.reason)
        if waits.reason != said:
            said = waits.reason
            output.aside(said)
        await asyncio.sleep(_LOOK_EVERY_S)
    if at.new is None:
        new = platform_keys.next_id(at.old)
        if out is None:
            raise CommandError(f"name a file for {new} with --out FILE", ExitCode.USAGE)
        _write_key(kind, new, out)
        at = Standing(at.old, new, Phase.OLD)
        message = f"the new key is in {out}; when all processes run with it, run this again"
    else:
        message = "when all processes run with this, run this again"
    return _result(kind, at, replies, message, _settings(kind, at, Phase(at.phase + 1)))


def _write_key(kind: Kind, key_id: str, out: Path) -> None:
    from webhost_local.installation.platform_keys import in_setting, new_seed

    seed = new_seed()
    settings = dict.fromkeys(place.setting for place in kind.lists)
    lines = [f"{setting}={key_id}:{in_setting(setting, seed)}\n" for setting in settings]
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        message = f"{out} exists: if it has the new key of this rotation, set that; else remove it"
        raise CommandError(message, ExitCode.USAGE) from error
    except OSError as error:
        raise CommandError(f"{out}: {error.strerror}", ExitCode.USAGE) from error
    with os.fdopen(descriptor, "w") as file:
        file.writelines(lines)


def _settings(kind: Kind, at: Standing, phase: Phase) -> list[dict[str, Any]]:
    if at.new is None:
        return []
    return [
        {"service": place.service, "setting": place.setting, "keys": list(ids)}
        for place, ids in rotation.settings_in(kind, at.old, at.new, phase)
    ]


def _result(
    kind: Kind,
    at: Standing,
    replies: Replies,
    message: str,
    settings: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "old": at.old,
        "new": at.new,
        "phase": at.phase.name.lower(),
        "processes": {service: len(group) for service, group in replies.items()},
        "set": settings or [],
        "deployments": rotation.deployments_of(kind, at, replies),
        "message": message,
    }


def _standing(kind: Kind, replies: Replies) -> Standing:
    try:
        return rotation.standing(kind, rotation.held(kind, replies))
    except Unclear as error:
        raise CommandError(str(error)) from error


async def _replies(client: Client, kind: Kind, count: Mapping[str, int]) -> Replies:
    """Ask all processes of the kind's services; `count` says how many there are, where known."""
    services = rotation.services_of(kind)
    if "deployer" not in services:
        services.append("deployer")
    found = await asyncio.gather(
        *(_replies_of(client, service, count.get(service)) for service in services)
    )
    return dict(zip(services, found, strict=True))


async def _replies_of(client: Client, service: str, count: int | None) -> list[KeysReply]:
    inbox = client.new_inbox()
    messages = await client.subscribe(inbox)
    subject = maintenance.subject(service, maintenance.KEYS)
    await client.publish(subject, wire.encode(Nothing()), reply=inbox)
    replies: list[KeysReply] = []
    try:
        async with asyncio.timeout(_REPLIES_S):
            while count is None or len(replies) < count:
                message = await messages.next_msg(timeout=_REPLIES_S)
                if message.data:  # what has none says that nobody replies
                    replies.append(wire.decode(message.data, KeysReply))
    except TimeoutError:
        pass
    await messages.unsubscribe()
    if not replies or (count is not None and len(replies) < count):
        of_all = "" if count is None else f" ({len(replies)} of {count} processes do)"
        raise NotSaid(service, of_all)
    return replies
