// The outbound Worker: what stands between the agents in the dispatch namespace and the Internet.
//
// Consumes each request that an agent's script makes, and `env.agent` {userId, agentId,
// deploymentId}, which the dispatch Worker gave with the call.
// Emits: the request, unchanged; one line of log, without the path: {event: "egress", userId,
// agentId, deploymentId, method, host, status}.
// Guarantees: an agent reaches what its list in the rules names and nothing else, whatever
// redirects it is sent. `*` there is every public host, never a private address: that one must be
// named itself. Refused is 403 FORBIDDEN; what cannot
// be reached is 502 UNAVAILABLE.

import rules from "./webhost-egress.mjs";
import { PlatformError } from "./webhost-errors.mjs";
import { isPrivate } from "./webhost-hosts.mjs";

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const { agent } = env;
    const log = (status) => {
      const line = { event: "egress", ...agent, method: request.method, host: url.host, status };
      console.log(JSON.stringify(line));
    };
    if (agent === undefined || !isAllowed(url, listOf(agent))) {
      log(403);
      return new PlatformError(403, "FORBIDDEN", `Agents may not reach ${url.host}.`).toResponse();
    }
    try {
      // A redirect goes back to the agent's script, which follows it through here.
      const response = await fetch(request, { redirect: "manual" });
      log(response.status);
      return response;
    } catch {
      log(502);
      return new PlatformError(502, "UNAVAILABLE", `${url.host} was not reached.`, {
        retryable: true,
      }).toResponse();
    }
  },
};

function listOf({ agentId }) {
  return Object.hasOwn(rules.agents, agentId) ? rules.agents[agentId] : rules.default;
}

/** Entries: `host` (at any port), `host:port`, `*.domain` (all below it) or `*`. */
function isAllowed({ protocol, hostname, port }, list) {
  const name = hostname.replace(/\.$/, "");
  const withPort = `${name}:${port || (protocol === "https:" ? 443 : 80)}`;
  if (list.includes(name) || list.includes(withPort)) return true;
  return !isPrivate(name) && list.some((entry) => entry === "*" || isBelow(name, entry));
}

function isBelow(name, entry) {
  return entry.startsWith("*.") && name.endsWith(entry.slice(1));
}
