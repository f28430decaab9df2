"""The JavaScript that the edge itself runs, beside scripts and before them. Pure."""

import json
from collections.abc import Iterable

PROPS_HEADER = "x-webhost-edge-binding-props"
ENTRYPOINT = "WebhostEdgeBinding"
OUTBOUND = "webhost-edge-outbound"
"""The props of a call to a script as the outbound Worker."""

DISPATCH = """
const missing = new Proxy({}, { get: () => async () => { throw new Error("Worker not found."); } });
export default ({
  "@namespace": namespace, "@ping": ping, "@outbound": outbound, "@parameters": names, ...scripts
}) => ({
  get(name, args, options) {
    if (!Object.hasOwn(scripts, name)) return missing;
    const cpuMs = options?.limits?.cpuMs;
    if (cpuMs) ping.fetch(`http://edge/${namespace}@${name}`, { method: "PUT", body: `${cpuMs}` });
    if (outbound === undefined) return scripts[name];
    const given = options?.outbound ?? {};
    const body = JSON.stringify(Object.fromEntries(names.map((each) => [each, given[each]])));
    const told = outbound.fetch(`http://edge/${name}`, { method: "PUT", body });
    const method = (_, called) => async (...values) => {
      if (!(await told).ok) throw new Error("The outbound Worker failed.");
      return scripts[name][called](...values);
    };
    return new Proxy({}, { get: method });
  },
});
"""

PING = """
const limits = {};
export default { async fetch(request) {
  if (request.method === "PUT")
    limits[new URL(request.url).pathname.slice(1)] = Number(await request.text());
  return Response.json(limits);
} };
"""
"""Answers with the processor time that dispatched calls last gave user Workers: key → ms."""

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
const parameters = new Map();
export const {ENTRYPOINT} = {{
  async fetch(request, env, ctx) {{
    const props = JSON.parse(request.headers.get("{PROPS_HEADER}") ?? "{{}}");
    const clean = new Request(request);
    clean.headers.delete("{PROPS_HEADER}");
    const {{ tells, of }} = props["{OUTBOUND}"] ?? {{}};
    if (tells) {{
      parameters.set(new URL(request.url).pathname.slice(1), await clean.json());
      return new Response();
    }}
    if (of) return script.default.fetch(clean, {{ ...env, ...parameters.get(of) }}, ctx);
    return ctx.exports.default({{ props }}).fetch(clean);
  }},
}};
"""


def outbound_props(*, of: str | None = None, tells: bool = False) -> str:
    """The props with which a script's request goes to the outbound Worker, or its parameters."""
    return json.dumps({OUTBOUND: {"tells": tells, "of": of}})


def _check(class_name: str) -> str:
    message = json.dumps(f"Durable Object class '{class_name}' is not exported by the script.")
    return (
        f"if (typeof script[{json.dumps(class_name)}] !== 'function') throw new Error({message});"
    )
