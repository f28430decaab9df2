"""The installation's own scripts: session, dispatch and outbound Worker. Pure.

A tag says which version a script is: its protocol's number, which an older deployer never lowers,
and a hash of its content.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import msgspec
import webhost_worker as worker
from webhost_kit.keys import MasterKeys, base64url

from webhost_deployer.cloudflare.addresses import dispatch_name, outbound_name, sessions_name
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.cloudflare.scripts import (
    PROVIDER,
    Binding,
    Script,
    WorkerEnvironment,
    front_bindings,
    installation_tag,
    plain,
    secret,
)

SESSIONS_MIGRATION = "v1"
_VERSION = "platform-v"


def sessions_script(environment: WorkerEnvironment) -> Script:
    """Return the session Worker."""
    return _platform_script(
        sessions_name(environment.installation_id),
        worker.SESSIONS_MAIN,
        worker.session_modules(),
        [
            {
                "type": "durable_object_namespace",
                "name": "SESSIONS",
                "class_name": worker.SESSIONS_CLASS,
            },
            plain("WEBHOST_PLATFORM_PUBLIC_KEYS", json.dumps(environment.platform_public_keys)),
            plain("SESSION_IDLE_DAYS", str(environment.session_idle_days)),
        ],
        worker.SESSIONS_PROTOCOL_VERSION,
        environment,
    )


def dispatch_script(
    environment: WorkerEnvironment, master_keys: MasterKeys, namespace: str
) -> Script:
    """Return the front of all deployments whose agent scripts are in the dispatch namespace."""
    keys = {str(number): base64url(key) for number, key in master_keys.by_version.items()}
    return _platform_script(
        dispatch_name(environment.installation_id),
        worker.FRONT_MAIN,
        worker.front_modules(),
        [
            *front_bindings(environment, {"anyAgent": True}),
            secret("WEBHOST_TELEMETRY_MASTER_KEYS", json.dumps(keys)),
            {
                "type": "dispatch_namespace",
                "name": "WEBHOST_AGENTS",
                "namespace": namespace,
                "outbound": {
                    "worker": {"service": outbound_name(environment.installation_id)},
                    "params": [{"name": worker.OUTBOUND_PARAMETER}],
                },
            },
        ],
        worker.FRONT_PROTOCOL_VERSION,
        environment,
        flags=worker.FRONT_FLAGS,
    )


def outbound_script(environment: WorkerEnvironment, egress: Egress) -> Script:
    """Return what the requests of the agents in the dispatch namespace go through."""
    # A module, since a variable has no room for many agents.
    rules = b"export default %s;\n" % msgspec.json.encode(egress)
    return _platform_script(
        outbound_name(environment.installation_id),
        worker.OUTBOUND_MAIN,
        worker.outbound_modules() | {worker.EGRESS_MODULE: rules},
        [],
        worker.OUTBOUND_PROTOCOL_VERSION,
        environment,
        flags=worker.FETCHING_FLAGS,
        keeps_logs=True,
    )


def is_current(found: Iterable[str], wanted: Script) -> bool:
    """Return whether the script with the tags `found` must be left as it is.

    One with a newer protocol must: an older deployer never downgrades it.
    """
    there = next((tag for tag in found if tag.startswith(_VERSION)), None)
    ours = next(tag for tag in wanted.tags if tag.startswith(_VERSION))
    return there is not None and (there == ours or _protocol(there) > _protocol(ours))


def _protocol(tag: str) -> int:
    number = tag.removeprefix(_VERSION).partition("-")[0]
    return int(number) if number.isdigit() else 0


def _platform_script(
    name: str,
    main: str,
    modules: dict[str, bytes],
    bindings: list[Binding],
    protocol: int,
    environment: WorkerEnvironment,
    *,
    flags: Sequence[str] = (),
    keeps_logs: bool = False,
) -> Script:
    content = hashlib.sha256(json.dumps([[_public(b) for b in bindings], list(flags)]).encode())
    for module, source in modules.items():
        content.update(f"\0{module}\0{len(source)}\0".encode() + source)
    return Script(
        name=name,
        main_module=main,
        modules=modules,
        tags=[
            "webhost",
            installation_tag(environment.installation_id),
            f"{_VERSION}{protocol}-{content.hexdigest()[:16]}",
            f"provider-{PROVIDER}",
        ],
        bindings=bindings,
        compatibility_flags=tuple(flags),
        keeps_logs=keeps_logs,
    )


def _public(binding: Binding) -> Binding:
    """Return what the tag may tell of a binding: of a secret the names of its keys alone."""
    if binding["type"] != "secret_text":
        return binding
    return {**binding, "text": sorted(json.loads(binding["text"]))}
