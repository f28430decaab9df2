// The deployment that a request is for, and what the front has of it: its agent script, its
// agent's sessions, its telemetry key.
//
// The front of one deployment has all of it in its bindings. The front of an installation is a
// dispatch Worker: the gateway and the deployer name the rest in the body that they sign for this
// deployment, the agent script is found by its name in the namespace, and the telemetry key is
// derived from the installation's master keys.

import { fromBase64Url } from "./webhost-bytes.mjs";
import { invalidRequest } from "./webhost-errors.mjs";

/**
 * @param {{userId: string, agentId: string, keyVersion: number, keyGeneration: number,
 *   limits?: {cpuMs?: number, subRequests?: number}}} named
 * @returns {{userId: string, agentId: string, deploymentId: string, runtimeProvider: string,
 *   agent: object, sessions: object, reportUrl: string, telemetryKey: () => Promise<Uint8Array>}}
 * @throws {PlatformError} 400 INVALID_REQUEST
 */
export function deploymentOf(env, deploymentId, named) {
  const own = env.WEBHOST_AGENT !== undefined;
  return {
    deploymentId,
    runtimeProvider: env.RUNTIME_PROVIDER,
    sessions: env.WEBHOST_SESSIONS,
    reportUrl: env.TELEMETRY_REPORT_URL,
    ...(own ? ofBindings(env) : ofNamespace(env, deploymentId, named)),
  };
}

function ofBindings(env) {
  return {
    userId: env.USER_ID,
    agentId: env.AGENT_ID,
    agent: env.WEBHOST_AGENT,
    telemetryKey: async () => fromBase64Url(env.TELEMETRY_SECRET),
  };
}

function ofNamespace(env, deploymentId, named) {
  const { userId, agentId, keyVersion, keyGeneration, limits = {} } = named ?? {};
  const valid =
    typeof userId === "string" &&
    typeof agentId === "string" &&
    Number.isSafeInteger(keyVersion) &&
    Number.isSafeInteger(keyGeneration);
  if (!valid) throw invalidRequest("The body does not name its deployment.");
  return {
    userId,
    agentId,
    agent: env.WEBHOST_AGENTS.get(scriptName(agentId, deploymentId), {}, {
      limits,
      outbound: { agent: { userId, agentId, deploymentId } },
    }),
    telemetryKey: () => derivedKey(env, deploymentId, keyVersion, keyGeneration),
  };
}

/** As the deployer names it: see `agent_script_name` there. */
function scriptName(agentId, deploymentId) {
  const suffix = (id) => id.slice(id.lastIndexOf("_") + 1);
  return `whs-${suffix(agentId)}-${suffix(deploymentId)}-code`;
}

/** HKDF-SHA256, as the deployer and the telemetry edge derive it. */
async function derivedKey(env, deploymentId, version, generation) {
  const master = JSON.parse(env.WEBHOST_TELEMETRY_MASTER_KEYS)[version];
  const key = await crypto.subtle.importKey("raw", fromBase64Url(master), "HKDF", false, [
    "deriveBits",
  ]);
  const info = encoder.encode(`webhost telemetry/1 ${deploymentId} ${generation}`);
  const algorithm = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info };
  return new Uint8Array(await crypto.subtle.deriveBits(algorithm, key, 256));
}

const encoder = new TextEncoder();
