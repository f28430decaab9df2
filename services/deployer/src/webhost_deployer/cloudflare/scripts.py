"""What the scripts at Cloudflare consist of: modules, tags and bindings. Pure.

Tags are `<what>-<value>`: Cloudflare's filter (`tag:yes,tag:no`) leaves no other separator.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import webhost_worker as worker
from webhost_contracts.artifacts import Bundle
from webhost_kit.keys import base64url

from webhost_deployer.cloudflare.addresses import sessions_name, worker_name
from webhost_deployer.model import Deployment

PROVIDER = "cloudflare"
COMPATIBILITY_DATE = "2026-01-01"
"""The session Worker's; a deployment names its own."""

SESSIONS_MIGRATION = "v1"
MODULE_SUFFIXES = (".js", ".mjs")
RESERVED_MODULE_PREFIX = "webhost-"
_SESSIONS_TAG = "sessions-v"

Binding = dict[str, Any]


@dataclass(frozen=True)
class WorkerEnvironment:
    """What all scripts of this installation are given. Public keys are base64url by key id."""

    installation_id: str
    telemetry_report_url: str
    invoke_public_keys: dict[str, str]
    platform_public_keys: dict[str, str]
    session_idle_days: int


@dataclass(frozen=True)
class Script:
    """One script, ready to be uploaded. The bindings hold secrets."""

    name: str
    main_module: str
    modules: dict[str, bytes] = field(repr=False)
    tags: list[str]
    bindings: list[Binding] = field(repr=False)
    compatibility_date: str
    compatibility_flags: list[str]


def installation_tag(installation_id: str) -> str:
    """Return the tag that says whose a script is."""
    return f"installation-{installation_id}"


def tagged(tags: Iterable[str], what: str) -> str | None:
    """Return the value that a script's tags give for `what`, such as its deployment."""
    prefix = f"{what}-"
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)


def bundle_problem(main_module: str, bundle: Bundle) -> str | None:
    """Say why these modules cannot be deployed."""
    names = [module.name for module in bundle.modules]
    if main_module not in names:
        return f"The main module {main_module} is not in the bundle."
    for name in names:
        if not name.endswith(MODULE_SUFFIXES):
            return f"The module {name} is not JavaScript."
        if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            return f"The module {name} is not below the bundle's root."
        if name.startswith(RESERVED_MODULE_PREFIX):
            return f"The module {name} has a name that the platform reserves."
    return None if len(set(names)) == len(names) else "Two modules have the same name."


def agent_script(
    deployment: Deployment, bundle: Bundle, telemetry_key: bytes, environment: WorkerEnvironment
) -> Script:
    """Return a deployment's script: the platform's entry with the customer's modules beside it."""
    plan = deployment.plan
    shim = f"export {{ default }} from {json.dumps('./' + plan.main_module_name)};\n"
    customer = {module.name: module.content.encode() for module in bundle.modules}
    return Script(
        name=worker_name(deployment.agent_id, deployment.id),
        main_module=worker.ENTRY_MAIN,
        modules=worker.entry_modules() | {worker.CUSTOMER_MODULE: shim.encode()} | customer,
        tags=[
            "webhost",
            installation_tag(environment.installation_id),
            f"user-{deployment.user_id}",
            f"agent-{deployment.agent_id}",
            f"deployment-{deployment.id}",
            f"version-{plan.deployment_version}",
            f"provider-{PROVIDER}",
        ],
        bindings=[
            _secret("TELEMETRY_SECRET", base64url(telemetry_key)),
            _plain("TELEMETRY_REPORT_URL", environment.telemetry_report_url),
            _plain("USER_ID", deployment.user_id),
            _plain("AGENT_ID", deployment.agent_id),
            _plain("DEPLOYMENT_ID", deployment.id),
            _plain("RUNTIME_PROVIDER", PROVIDER),
            _plain("WEBHOST_INVOKE_PUBLIC_KEYS", json.dumps(environment.invoke_public_keys)),
            _plain("WEBHOST_PLATFORM_PUBLIC_KEYS", json.dumps(environment.platform_public_keys)),
            _plain("WEBHOST_INVOKE_PATH", plan.invoke_path),
            {
                "type": "service",
                "name": "WEBHOST_SESSIONS",
                "service": sessions_name(environment.installation_id),
                "props": {"agentId": deployment.agent_id},
            },
        ],
        compatibility_date=plan.compatibility_date,
        compatibility_flags=worker.COMPATIBILITY_FLAGS,
    )


def sessions_script(environment: WorkerEnvironment) -> Script:
    """Return the session Worker's script; a tag says which version it is."""
    modules = worker.session_modules()
    bindings = [
        {
            "type": "durable_object_namespace",
            "name": "SESSIONS",
            "class_name": worker.SESSIONS_CLASS,
        },
        _plain("WEBHOST_PLATFORM_PUBLIC_KEYS", json.dumps(environment.platform_public_keys)),
        _plain("SESSION_IDLE_DAYS", str(environment.session_idle_days)),
    ]
    content = hashlib.sha256(json.dumps(bindings).encode())
    for name, module in modules.items():
        content.update(f"\0{name}\0{len(module)}\0".encode() + module)
    return Script(
        name=sessions_name(environment.installation_id),
        main_module=worker.SESSIONS_MAIN,
        modules=modules,
        tags=[
            "webhost",
            installation_tag(environment.installation_id),
            f"{_SESSIONS_TAG}{worker.SESSIONS_PROTOCOL_VERSION}-{content.hexdigest()[:16]}",
            f"provider-{PROVIDER}",
        ],
        bindings=bindings,
        compatibility_date=COMPATIBILITY_DATE,
        compatibility_flags=[],
    )


def is_current(found: Iterable[str], wanted: Script) -> bool:
    """Return whether the session Worker with the tags `found` must be left as it is.

    One with a newer protocol must: an older deployer never downgrades it.
    """
    there = next((tag for tag in found if tag.startswith(_SESSIONS_TAG)), None)
    ours = next(tag for tag in wanted.tags if tag.startswith(_SESSIONS_TAG))
    return there is not None and (there == ours or _protocol(there) > _protocol(ours))


def _protocol(tag: str) -> int:
    number = tag.removeprefix(_SESSIONS_TAG).partition("-")[0]
    return int(number) if number.isdigit() else 0


def _plain(name: str, text: str) -> Binding:
    return {"type": "plain_text", "name": name, "text": text}


def _secret(name: str, text: str) -> Binding:
    return {"type": "secret_text", "name": name, "text": text}
