"""What a deployment's scripts consist of: modules, tags and bindings. Pure.

A deployment is an agent script, the customer's, and the front before it, which is the platform's:
one of its own on a plain account, that of the installation where agent scripts are in a dispatch
namespace (`platform_scripts`).
Tags are `<what>-<value>`: Cloudflare's filter (`tag:yes,tag:no`) leaves no other separator.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import webhost_worker as worker
from webhost_contracts.artifacts import RESERVED_MODULE_PREFIX, Bundle, Module, kind_of
from webhost_contracts.invoke import Limits
from webhost_kit.keys import base64url

from webhost_deployer.cloudflare.addresses import agent_script_name, front_name, sessions_name
from webhost_deployer.model import Deployment

PROVIDER = "cloudflare"
COMPATIBILITY_DATE = "2026-01-01"
"""That of the platform's own scripts; a deployment names its agent script's."""

Binding = dict[str, Any]


@dataclass(frozen=True)
class WorkerEnvironment:
    """What the platform's scripts are given. Public keys are base64url by key id."""

    installation_id: str
    telemetry_report_url: str
    invoke_public_keys: dict[str, str]
    platform_public_keys: dict[str, str]
    session_idle_days: int

    @property
    def public_key_ids(self) -> tuple[str, ...]:
        """Return the ids of the public keys, each with what it is for, in one order."""
        invoke = (f"invoke/{key_id}" for key_id in sorted(self.invoke_public_keys))
        platform = (f"platform/{key_id}" for key_id in sorted(self.platform_public_keys))
        return (*invoke, *platform)


@dataclass(frozen=True)
class Script:
    """One script, ready to be uploaded. The bindings hold secrets."""

    name: str
    main_module: str
    modules: dict[str, bytes] = field(repr=False)
    tags: list[str]
    bindings: list[Binding] = field(repr=False)
    compatibility_date: str = COMPATIBILITY_DATE
    compatibility_flags: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    keeps_logs: bool = False
    """Whether Cloudflare keeps what the script writes, for its owner."""


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
    if kind_of(main_module) != "javascript":
        return f"The main module {main_module} is not JavaScript."
    for name in names:
        if kind_of(name) is None:
            return f"The module {name} is none that can be deployed."
        if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            return f"The module {name} is not below the bundle's root."
        if name.lower().startswith(RESERVED_MODULE_PREFIX):
            return f"The module {name} has a name that the platform reserves."
    return None if len(set(names)) == len(names) else "Two modules have the same name."


def _uploaded(module: Module) -> bytes:
    """Return what is uploaded for a module.

    Cloudflare takes no modules of JSON: one is a script that exports the value. `JSON.parse` makes
    what is there of any key, `__proto__` included.
    """
    if kind_of(module.name) != "json":
        return module.body
    return b"export default JSON.parse(%s);\n" % msgspec.json.encode(module.content)


def agent_script(
    deployment: Deployment,
    bundle: Bundle,
    limits: Limits | None,
    installation_id: str,
    secrets: Mapping[str, str],
) -> Script:
    """Return the customer's script: its modules, called by a wrapper, and the agent's secrets;
    nothing of the platform's.

    A user Worker has no `limits` of its own: they come with each call, so that another tier's hold
    without a deploy.
    """
    plan = deployment.plan
    main = json.dumps(f"./{plan.main_module_name}")
    shim = (
        f"export {{ default }} from {main};\n"
        f"export const invokePath = {json.dumps(plan.invoke_path)};\n"
    )
    customer = {module.name: _uploaded(module) for module in bundle.modules}
    limits = limits or Limits()
    named = {"cpu_ms": limits.cpu_ms, "subrequests": limits.subrequests}
    return Script(
        name=agent_script_name(deployment.agent_id, deployment.id),
        main_module=worker.AGENT_MAIN,
        modules=worker.agent_modules() | {worker.CUSTOMER_MODULE: shim.encode()} | customer,
        tags=_tags(deployment, installation_id),
        bindings=[secret(name, value) for name, value in sorted(secrets.items())],
        compatibility_date=plan.compatibility_date,
        compatibility_flags=worker.FETCHING_FLAGS,
        limits={name: limit for name, limit in named.items() if limit is not None},
    )


def front_script(
    deployment: Deployment, telemetry_key: bytes, environment: WorkerEnvironment
) -> Script:
    """Return the front of one deployment; its agent script must exist."""
    return Script(
        name=front_name(deployment.agent_id, deployment.id),
        main_module=worker.FRONT_MAIN,
        modules=worker.front_modules(),
        tags=_tags(deployment, environment.installation_id),
        bindings=[
            *front_bindings(environment, {"agentId": deployment.agent_id}),
            secret("TELEMETRY_SECRET", base64url(telemetry_key)),
            plain("USER_ID", deployment.user_id),
            plain("AGENT_ID", deployment.agent_id),
            plain("DEPLOYMENT_ID", deployment.id),
            {
                "type": "service",
                "name": "WEBHOST_AGENT",
                "service": agent_script_name(deployment.agent_id, deployment.id),
            },
        ],
        compatibility_flags=worker.FRONT_FLAGS,
    )


def front_bindings(
    environment: WorkerEnvironment, sessions_props: Mapping[str, object]
) -> list[Binding]:
    """Return what every front is given."""
    return [
        plain("TELEMETRY_REPORT_URL", environment.telemetry_report_url),
        plain("RUNTIME_PROVIDER", PROVIDER),
        plain("WEBHOST_INVOKE_PUBLIC_KEYS", json.dumps(environment.invoke_public_keys)),
        plain("WEBHOST_PLATFORM_PUBLIC_KEYS", json.dumps(environment.platform_public_keys)),
        {
            "type": "service",
            "name": "WEBHOST_SESSIONS",
            "service": sessions_name(environment.installation_id),
            "props": dict(sessions_props),
        },
    ]


def _tags(deployment: Deployment, installation_id: str) -> list[str]:
    return [
        "webhost",
        installation_tag(installation_id),
        f"user-{deployment.user_id}",
        f"agent-{deployment.agent_id}",
        f"deployment-{deployment.id}",
        f"version-{deployment.plan.deployment_version}",
        f"provider-{PROVIDER}",
    ]


def plain(name: str, text: str) -> Binding:
    """Return a variable."""
    return {"type": "plain_text", "name": name, "text": text}


def secret(name: str, text: str) -> Binding:
    """Return a secret, which cannot be read back."""
    return {"type": "secret_text", "name": name, "text": text}
