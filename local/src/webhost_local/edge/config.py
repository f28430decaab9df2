"""workerd's configuration for one script, as Cap'n Proto text. Pure.

Two sockets lead into a script. `http` is the public one and reaches the script's own default
export. `bindings` is for other scripts' service bindings: the caller's workerd writes the
binding's props into a header (over whatever the caller sent), and the entry module made here turns
that header into `ctx.props`. The public socket never looks at the header, so props cannot be
forged from outside, and customer code cannot reach the bindings socket, which is a unix socket.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from webhost_local.edge.model import Binding, Script

PROPS_HEADER = "x-webhost-edge-binding-props"
ENTRY_NAME = "webhost-edge-entry.mjs"
ENTRYPOINT = "WebhostEdgeBinding"
# From this date on `ctx.exports` is there by default, and naming the flag is an error.
CTX_EXPORTS_DEFAULT_DATE = "2025-11-17"


def entry_module(main: str, classes: Iterable[str]) -> str:
    """Source of the module that workerd starts: its own exports and its bindings' endpoint.

    It refuses to start when one of the Durable Object `classes` is not exported, which workerd
    alone would only warn about.
    """
    name = json.dumps(main)
    return f"""import * as script from {name};
export * from {name};
export default script.default ?? {{}};
for (const name of {json.dumps(list(classes))}) {{
  if (typeof script[name] !== "function") {{
    throw new Error(`Durable Object class '${{name}}' is not exported by the script.`);
  }}
}}
export const {ENTRYPOINT} = {{
  fetch(request, env, ctx) {{
    const props = JSON.parse(request.headers.get("{PROPS_HEADER}") ?? "{{}}");
    const clean = new Request(request);
    clean.headers.delete("{PROPS_HEADER}");
    return ctx.exports.default({{ props }}).fetch(clean);
  }},
}};
"""


def text(value: str) -> str:
    """A Cap'n Proto string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}" for c in escaped) + '"'
    )


def render(
    script: Script,
    *,
    version_path: str,
    binding_socket: Callable[[str], str],
    storage: Path | None,
    newest_date: str,
) -> str:
    """The configuration of one process.

    `version_path`: the version's directory relative to the configuration file.
    `binding_socket`: script name → path of its bindings socket. `storage`: where Durable Objects
    live on disk, or None to keep them in memory (a trial start). `newest_date`: the newest
    compatibility date that the binary knows; a later one is lowered to it.
    """
    date = min(script.version.compatibility_date, newest_date)
    flags = list(script.version.compatibility_flags)
    if date < CTX_EXPORTS_DEFAULT_DATE and "enable_ctx_exports" not in flags:
        flags.append("enable_ctx_exports")
    main = script.version.modules[0].name
    modules = [
        f"(name = {text(ENTRY_NAME)}, esModule = {text(entry_module(main, script.namespaces))})"
    ] + [
        f"(name = {text(m.name)}, {m.kind} = embed {text(f'{version_path}/{m.file}')})"
        for m in script.version.modules
    ]
    services = ['(name = "main", worker = .worker)', f"(name = {text('internet')}, {_NETWORK})"]
    services += [_external(b, binding_socket(b.service)) for b in script.bindings if b.service]
    worker = [
        f"modules = [{', '.join(modules)}]",
        f"compatibilityDate = {text(date)}",
        f"compatibilityFlags = [{', '.join(map(text, flags))}]",
        f"bindings = [{', '.join(map(_binding, script.bindings))}]",
    ]
    if script.namespaces:
        classes = [
            f"(className = {text(name)}, uniqueKey = {text(namespace.key)}, "
            f"enableSql = {str(namespace.sqlite).lower()})"
            for name, namespace in script.namespaces.items()
        ]
        worker.append(f"durableObjectNamespaces = [{', '.join(classes)}]")
        if storage is None:
            worker.append("durableObjectStorage = (inMemory = void)")
        else:
            worker.append('durableObjectStorage = (localDisk = "objects")')
            services.append(
                f'(name = "objects", disk = (path = {text(str(storage))}, writable = true))'
            )
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [{", ".join(services)}],
  sockets = [
    (name = "http", http = (), service = "main"),
    (name = "bindings", http = (), service = (name = "main", entrypoint = "{ENTRYPOINT}"))]);
const worker :Workerd.Worker = (
  {f",{chr(10)}  ".join(worker)});
"""


# Telemetry goes to loopback on one machine, so private addresses are allowed.
_NETWORK = 'network = (allow = ["public", "private"], tlsOptions = (trustBrowserCas = true))'


def _external(binding: Binding, socket: str) -> str:
    name = text(f"binding:{binding.name}")
    address = text(f"unix:{socket}")
    props = json.dumps(binding.props or {})
    return (
        f"(name = {name}, external = (address = {address}, "
        f"http = (injectRequestHeaders = [(name = {text(PROPS_HEADER)}, value = {text(props)})])))"
    )


def _binding(binding: Binding) -> str:
    if binding.type == "service":
        value = f"service = {text(f'binding:{binding.name}')}"
    elif binding.class_name is not None:
        value = f"durableObjectNamespace = {text(binding.class_name)}"
    elif binding.type == "json":
        value = f"json = {text(json.dumps(binding.json))}"
    else:
        value = f"text = {text(binding.text or '')}"
    return f"(name = {text(binding.name)}, {value})"
