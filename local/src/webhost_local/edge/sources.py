"""The JavaScript that the edge itself runs, beside scripts and before them. Pure."""

import json
from collections.abc import Iterable

PROPS_HEADER = "x-webhost-edge-binding-props"
PARAMETERS_HEADER = "x-webhost-edge-parameters"
ENTRYPOINT = "WebhostEdgeBinding"
OUTBOUND = "webhost-edge-outbound"
"""The props of a call to a script as the outbound Worker, whose parameters are in a header then."""

DISPATCH = """
const missing = new Proxy({}, { get: () => async () => { throw new Error("Worker not found."); } });
async function write(parameters, file, given) {
  const before = await parameters.fetch(file);
  if ((await before.text()) === given) return;
  const written = await parameters.fetch(file, { method: "PUT", body: given });
  if (!written.ok) throw new Error("The outbound Worker has no parameters.");
}
const limits = new Map();
function limit(ping, address, cpuMs) {
  if (limits.get(address) === cpuMs) return;
  const said = ping.fetch(address, { method: "PUT", body: `${cpuMs}` });
  // The call may end before; then the next one says it.
  said.then(() => limits.set(address, cpuMs), () => {});
}
export default ({
  "@namespace": namespace, "@ping": ping, "@parameters": parameters, "@names": names, ...scripts
}) => ({
  get(name, args, options) {
    if (!Object.hasOwn(scripts, name)) return missing;
    const address = `http://edge/${namespace}@${name}`;
    if (options?.limits?.cpuMs) limit(ping, address, options.limits.cpuMs);
    if (parameters === undefined) return scripts[name];
    const outbound = options?.outbound ?? {};
    const given = JSON.stringify(Object.fromEntries(names.map((each) => [each, outbound[each]])));
    const method = (_, called) => async (...values) => {
      await write(parameters, address, given);
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

TO_OUTBOUND = f"""
export default {{ async fetch(request, env) {{
  const passed = new Request(request);
  const given = await env.parameters.fetch(`http://edge/${{env.of}}`);
  passed.headers.set("{PARAMETERS_HEADER}", encodeURIComponent(await given.text()));
  return env.outbound.fetch(passed);
}} }};
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
  async fetch(request, env, ctx) {{
    const props = JSON.parse(request.headers.get("{PROPS_HEADER}") ?? "{{}}");
    const clean = new Request(request);
    clean.headers.delete("{PROPS_HEADER}");
    if (props["{OUTBOUND}"]) {{
      const given = JSON.parse(decodeURIComponent(request.headers.get("{PARAMETERS_HEADER}")));
      clean.headers.delete("{PARAMETERS_HEADER}");
      return script.default.fetch(clean, {{ ...env, ...given }}, ctx);
    }}
    return ctx.exports.default({{ props }}).fetch(clean);
  }},
}};
"""


def _check(class_name: str) -> str:
    message = json.dumps(f"Durable Object class '{class_name}' is not exported by the script.")
    return (
        f"if (typeof script[{json.dumps(class_name)}] !== 'function') throw new Error({message});"
    )
