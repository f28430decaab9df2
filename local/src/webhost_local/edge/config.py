"""workerd's configuration for one script's process, as Cap'n Proto text. Pure.

A process runs the script and, beside it, the scripts that it calls through service bindings: each
in an isolate of its own, as at Cloudflare, with the binding's props. Two kinds of callee have a
process of their own, behind a unix socket that customer code cannot reach with `fetch`:

- a script with Durable Objects, which exist once. The caller's workerd writes the binding's props
  into a header, over whatever the caller sent, and the entry module made here turns that header
  into `ctx.props`; the public socket never looks at it. RPC does not pass through such a binding.
- a script in a dispatch namespace, called by `fetch` and by RPC, without props.

A script reaches public addresses and, where one of its variables names one of them, the private
addresses that the edge allows.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from webhost_local.edge.model import Binding, Script

PROPS_HEADER = "x-webhost-edge-binding-props"
ENTRY_NAME = "webhost-edge-entry.mjs"
ENTRYPOINT = "WebhostEdgeBinding"
# From this date on `ctx.exports` is there by default, and naming the flag is an error.
CTX_EXPORTS_DEFAULT_DATE = "2025-11-17"
RPC = 'http = (capnpConnectHost = "rpc")'
DISPATCH_MODULE = "webhost-edge:dispatch"

DISPATCH = """
const missing = new Proxy({}, { get: () => async () => { throw new Error("Worker not found."); } });
export default (scripts) => ({
  get: (name) => (Object.hasOwn(scripts, name) ? scripts[name] : missing),
});
"""

PING = "export default { fetch: () => new Response() };"

EGRESS = """
export default { fetch(request, env) {
  return (env[new URL(request.url).host] ?? env.internet).fetch(request);
} };
"""


def entry_module(main: str, classes: Iterable[str]) -> str:
    """Source of the module that workerd starts: its own exports and its bindings' endpoint.

    It refuses to start when one of the Durable Object `classes` is not exported, which workerd
    alone would only warn about.
    """
    name = json.dumps(main)
    # No loop: the script's own code has run by then, and may have changed what a loop does.
    checks = "\n".join(_check(each) for each in classes)
    return f"""import * as script from {name};
export * from {name};
export default script.default ?? {{}};
{checks}
export const {ENTRYPOINT} = {{
  fetch(request, env, ctx) {{
    const props = JSON.parse(request.headers.get("{PROPS_HEADER}") ?? "{{}}");
    const clean = new Request(request);
    clean.headers.delete("{PROPS_HEADER}");
    return ctx.exports.default({{ props }}).fetch(clean);
  }},
}};
"""


def _check(class_name: str) -> str:
    message = json.dumps(f"Durable Object class '{class_name}' is not exported by the script.")
    return (
        f"if (typeof script[{json.dumps(class_name)}] !== 'function') throw new Error({message});"
    )


def text(value: str) -> str:
    """A Cap'n Proto string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}" for c in escaped) + '"'
    )


def members(script: Script, scripts: Mapping[str, Script]) -> list[Script]:
    """The scripts that run in this script's process, itself first."""
    found = [script]
    for member in found:
        for name in sorted(member.services()):
            callee = scripts.get(name)
            if callee is not None and not callee.namespaces and callee.name != script.name:
                found += [callee] if callee not in found else []
    return found


def connects_to(script: Script, scripts: Mapping[str, Script]) -> set[str]:
    """The keys of the scripts that this script's process calls in theirs."""
    inside = members(script, scripts)
    keys = {name for member in inside for name in member.services()}
    spaces = {b.namespace for member in inside for b in member.bindings if b.namespace}
    keys |= {key for key, other in scripts.items() if other.namespace in spaces}
    return keys - {member.key for member in inside}


@dataclass(frozen=True)
class Surroundings:
    """What a process's configuration depends on beside its script.

    `scripts`: by key. `version_path`: a version's directory relative to the configuration file.
    `binding_socket`: script key → path of its bindings socket. `newest_date`: the newest
    compatibility date that the binary knows; a later one is lowered to it. Beside public addresses
    scripts reach the `open_addresses`, and those `private_addresses` that a variable names.
    """

    scripts: Mapping[str, Script]
    version_path: Callable[[Script], str]
    binding_socket: Callable[[str], str]
    newest_date: str
    private_addresses: tuple[str, ...]
    open_addresses: tuple[str, ...]


def render(script: Script, storage: Path | None, around: Surroundings) -> str:
    """The configuration of one process.

    `storage`: where Durable Objects live on disk, or None to keep them in memory (a trial start).
    """
    return _Process(script, storage, around).render()


@dataclass
class _Process:
    script: Script
    storage: Path | None
    around: Surroundings
    services: dict[str, str] = field(default_factory=dict[str, str])
    """Definitions by name."""

    def render(self) -> str:
        self.services["internet"] = f"network = ({_PUBLIC}, tlsOptions = (trustBrowserCas = true))"
        self.services["ping"] = f"worker = {_small_worker(PING, [])}"
        inside = members(self.script, self.around.scripts)
        for member in inside:
            self.services[self._service(member.name)] = f"worker = {self._worker(member)}"
        services = [f"(name = {text(name)}, {value})" for name, value in self.services.items()]
        service, options = '"main"', RPC
        if self.script.namespace is None:
            service, options = f'(name = "main", entrypoint = "{ENTRYPOINT}")', "http = ()"
        separator = ",\n    "
        return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    {separator.join(services)}],
  sockets = [
    (name = "http", http = (), service = "main"),
    (name = "ping", http = (), service = "ping"),
    (name = "bindings", {options}, service = {service})],
  extensions = [(modules = [(name = "{DISPATCH_MODULE}", internal = true,
    esModule = {text(DISPATCH)})])]);
"""

    def _service(self, name: str) -> str:
        return "main" if name == self.script.name else f"script:{name}"

    def _worker(self, member: Script) -> str:
        date = min(member.version.compatibility_date, self.around.newest_date)
        flags = list(member.version.compatibility_flags)
        if date < CTX_EXPORTS_DEFAULT_DATE and "enable_ctx_exports" not in flags:
            flags.append("enable_ctx_exports")
        path = self.around.version_path(member)
        modules = [
            f"(name = {text(m.name)}, {m.kind} = embed {text(f'{path}/{m.file}')})"
            for m in member.version.modules
        ]
        if member is self.script:
            entry = entry_module(member.version.modules[0].name, member.namespaces)
            modules.insert(0, f"(name = {text(ENTRY_NAME)}, esModule = {text(entry)})")
        bindings = [
            f"(name = {text(binding.name)}, {self._binding(binding, member)})"
            for binding in member.bindings
        ]
        fields = [
            f"modules = [{', '.join(modules)}]",
            f"compatibilityDate = {text(date)}",
            f"compatibilityFlags = [{', '.join(map(text, flags))}]",
            f"bindings = [{', '.join(bindings)}]",
            f"globalOutbound = {text(self._outbound(member))}",
            *self._durable_objects(member),
        ]
        return f"({', '.join(fields)})"

    def _binding(self, binding: Binding, member: Script) -> str:
        if binding.service is not None:
            return f"service = {self._callee(binding, binding.service, member)}"
        if binding.namespace is not None:
            return self._dispatch(binding.namespace)
        if binding.class_name is not None:
            return f"durableObjectNamespace = {text(binding.class_name)}"
        if binding.type == "json":
            return f"json = {text(json.dumps(binding.json))}"
        return f"text = {text(binding.text or '')}"

    def _callee(self, binding: Binding, name: str, member: Script) -> str:
        props = json.dumps(binding.props or {})
        callee = self.around.scripts.get(name)
        if name == self.script.name or (callee is not None and not callee.namespaces):
            return f"(name = {text(self._service(name))}, props = (json = {text(props)}))"
        service = f"binding:{member.name}:{binding.name}"
        header = f"(name = {text(PROPS_HEADER)}, value = {text(props)})"
        self.services[service] = (
            f"external = (address = {text(self._address(name))}, "
            f"http = (injectRequestHeaders = [{header}]))"
        )
        return text(service)

    def _dispatch(self, namespace: str) -> str:
        inner: list[str] = []
        for key, script in sorted(self.around.scripts.items()):
            if script.namespace == namespace:
                service = f"dispatch:{key}"
                self.services[service] = f"external = (address = {text(self._address(key))}, {RPC})"
                inner.append(f"(name = {text(script.name)}, service = {text(service)})")
        return f'wrapped = (moduleName = "{DISPATCH_MODULE}", innerBindings = [{", ".join(inner)}])'

    def _address(self, key: str) -> str:
        return f"unix:{self.around.binding_socket(key)}"

    def _outbound(self, member: Script) -> str:
        named = [f"{b.text}/" for b in member.bindings if b.type == "plain_text"]
        allowed = [
            address
            for address in self.around.private_addresses
            if any(f"//{address}/" in value for value in named)
        ]
        allowed = sorted({*allowed, *self.around.open_addresses})
        if not allowed:
            return "internet"
        bindings = ['(name = "internet", service = "internet")']
        for address in allowed:
            self.services[f"private:{address}"] = (
                f"external = (address = {text(address)}, http = ())"
            )
            bindings.append(f"(name = {text(address)}, service = {text(f'private:{address}')})")
        name = f"egress:{member.name}"
        self.services[name] = f"worker = {_small_worker(EGRESS, bindings)}"
        return name

    def _durable_objects(self, member: Script) -> list[str]:
        if member is not self.script or not member.namespaces:
            return []
        classes = [
            f"(className = {text(name)}, uniqueKey = {text(namespace.key)}, "
            f"enableSql = {str(namespace.sqlite).lower()})"
            for name, namespace in member.namespaces.items()
        ]
        storage = "(inMemory = void)"
        if self.storage is not None:
            storage = '(localDisk = "objects")'
            path = text(str(self.storage))
            self.services["objects"] = f"disk = (path = {path}, writable = true)"
        return [
            f"durableObjectNamespaces = [{', '.join(classes)}]",
            f"durableObjectStorage = {storage}",
        ]


def _small_worker(source: str, bindings: Iterable[str]) -> str:
    return (
        f'(modules = [(name = "main.mjs", esModule = {text(source)})], '
        f'compatibilityDate = "2026-01-01", bindings = [{", ".join(bindings)}])'
    )


_PUBLIC = 'allow = ["public"]'
