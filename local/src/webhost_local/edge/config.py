"""workerd's configuration for one script's process, as Cap'n Proto text. Pure.

A process runs the script and, beside it, the scripts that it calls through service bindings: each
in an isolate of its own, as at Cloudflare, with the binding's props. Two kinds of callee have a
process of their own, behind a unix socket that customer code cannot reach with `fetch`:

- a script with Durable Objects, which exist once. The caller's workerd writes the binding's props
  into a header, over whatever the caller sent, and the entry module made here turns that header
  into `ctx.props`; the public socket never looks at it. RPC does not pass through such a binding.
- a script in a dispatch namespace, called by `fetch` and by RPC, without props.

What a script in a dispatch namespace fetches goes to the outbound Worker of the binding that leads
there, in its process. Of the parameters of all calls to one script it sees the last ones: they are
a file for each script, which the dispatch Worker's process writes where they differ from it.

Any other script reaches public addresses and, where one of its variables names one of them, the
private addresses that the edge allows.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from webhost_local.edge import sources
from webhost_local.edge.model import Binding, Script

ENTRY_NAME = "webhost-edge-entry.mjs"
# From this date on `ctx.exports` is there by default, and naming the flag is an error.
CTX_EXPORTS_DEFAULT_DATE = "2025-11-17"
RPC = 'http = (capnpConnectHost = "rpc")'
DISPATCH_MODULE = "webhost-edge:dispatch"


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


def outbound_of(namespace: str | None, scripts: Mapping[str, Script]) -> str | None:
    """The outbound Worker of a dispatch namespace, by the first binding that names one."""
    for script in scripts.values():
        for binding in script.bindings:
            if namespace is not None and binding.namespace == namespace and binding.outbound:
                return binding.outbound.worker.service
    return None


def connects_to(script: Script, scripts: Mapping[str, Script]) -> set[str]:
    """The keys of the scripts that this script's process calls in theirs."""
    inside = members(script, scripts)
    keys = {name for member in inside for name in member.services()}
    spaces = {b.namespace for member in inside for b in member.bindings if b.namespace}
    keys |= {key for key, other in scripts.items() if other.namespace in spaces}
    outbound = outbound_of(script.namespace, scripts)
    keys |= {outbound} if outbound is not None else set()
    return keys - {member.key for member in inside}


@dataclass(frozen=True)
class ProcessEnvironment:
    """What a process's configuration depends on beside its script.

    `scripts`: by key. `version_path`: a version's directory relative to the configuration file.
    `binding_socket`: script key → path of its bindings socket. `newest_date`: the newest
    compatibility date that the binary knows; a later one is lowered to it. Beside public addresses
    scripts reach the `open_addresses`, and those `private_addresses` that a variable names. The
    outbound Worker's `parameters` for each script are in that directory.
    """

    scripts: Mapping[str, Script]
    version_path: Callable[[Script], str]
    binding_socket: Callable[[str], str]
    newest_date: str
    private_addresses: tuple[str, ...]
    open_addresses: tuple[str, ...]
    parameters: Path


def render(script: Script, storage: Path | None, around: ProcessEnvironment) -> str:
    """The configuration of one process.

    `storage`: where Durable Objects live on disk, or None to keep them in memory (a trial start).
    """
    return _Process(script, storage, around).render()


@dataclass
class _Process:
    script: Script
    storage: Path | None
    around: ProcessEnvironment
    services: dict[str, str] = field(default_factory=dict[str, str])
    """Definitions by name."""

    def render(self) -> str:
        self.services["internet"] = f"network = ({_PUBLIC}, tlsOptions = (trustBrowserCas = true))"
        self.services["ping"] = f"worker = {_small_worker(sources.PING, [])}"
        inside = members(self.script, self.around.scripts)
        for member in inside:
            self.services[self._service(member.name)] = f"worker = {self._worker(member)}"
        services = [f"(name = {text(name)}, {value})" for name, value in self.services.items()]
        service, options = '"main"', RPC
        if self.script.namespace is None:
            entrypoint = sources.ENTRYPOINT
            service, options = f'(name = "main", entrypoint = "{entrypoint}")', _WHOLE_URL
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
    esModule = {text(sources.DISPATCH)})])]);
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
            entry = sources.entry_module(member.version.modules[0].name, member.namespaces)
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
            return self._dispatch(binding, binding.namespace)
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
        return text(self._with_props(f"binding:{member.name}:{binding.name}", name, props))

    def _with_props(self, service: str, callee: str, props: str) -> str:
        """Define the service that calls a script in its process, with these props."""
        header = f"(name = {text(sources.PROPS_HEADER)}, value = {text(props)})"
        self.services[service] = (
            f"external = (address = {text(self._address(callee))}, "
            f"http = (style = proxy, injectRequestHeaders = [{header}]))"
        )
        return service

    def _dispatch(self, binding: Binding, namespace: str) -> str:
        inner = [
            f'(name = "@namespace", text = {text(namespace)})',
            '(name = "@ping", service = "ping")',
        ]
        if binding.outbound is not None:
            names = json.dumps([parameter.name for parameter in binding.outbound.params])
            self._parameters()
            inner += [
                '(name = "@parameters", service = "parameters")',
                f'(name = "@names", json = {text(names)})',
            ]
        for key, script in sorted(self.around.scripts.items()):
            if script.namespace == namespace:
                service = f"dispatch:{key}"
                self.services[service] = f"external = (address = {text(self._address(key))}, {RPC})"
                inner.append(f"(name = {text(script.name)}, service = {text(service)})")
        return f'wrapped = (moduleName = "{DISPATCH_MODULE}", innerBindings = [{", ".join(inner)}])'

    def _address(self, key: str) -> str:
        return f"unix:{self.around.binding_socket(key)}"

    def _outbound(self, member: Script) -> str:
        outbound = outbound_of(member.namespace, self.around.scripts)
        if outbound is not None:
            return self._to_outbound(member, outbound)
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
        self.services[name] = f"worker = {_small_worker(sources.EGRESS, bindings)}"
        return name

    def _to_outbound(self, member: Script, outbound: str) -> str:
        self._parameters()
        self._with_props("outbound", outbound, json.dumps({sources.OUTBOUND: True}))
        bindings = [
            *(f'(name = "{name}", service = "{name}")' for name in ("outbound", "parameters")),
            f'(name = "of", text = {text(member.key)})',
        ]
        self.services["to-outbound"] = f"worker = {_small_worker(sources.TO_OUTBOUND, bindings)}"
        return "to-outbound"

    def _parameters(self) -> None:
        path = text(str(self.around.parameters))
        self.services["parameters"] = f"disk = (path = {path}, writable = true)"

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


_WHOLE_URL = "http = (style = proxy)"
"""Requests with their whole URL, so that the scheme is not lost."""
_PUBLIC = 'allow = ["public"]'
