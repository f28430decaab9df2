// The Worker's own report of a call: one signed POST after the answer, three tries.
//
// Emits: X-Telemetry-Deployment-Id, X-Telemetry-Signature: v1=<hex HMAC-SHA256 of the raw body>.
// The event id is the invocation's, so a repeated try counts once. Never throws.

import {
  encode,
  fromBase64Url,
  importKey,
  platformFetch,
  sign,
  sleep,
  stringifyJson,
  toHex,
} from "./webhost-platform.mjs";

const DELAYS_MS = [0, 500, 2_000];
const TRY_TIMEOUT_MS = 5_000;

const timeoutSignal = AbortSignal.timeout.bind(AbortSignal);

/**
 * @param {{invocationId: string, traceId: string, admittedAtMs: number}} call
 * @param {{tokens: number, computeMs: number, toolCalls: number}} usage
 * @param {string | undefined} errorClass of a call that failed
 */
export async function reportCall(env, call, usage, errorClass) {
  const event = {
    userId: env.USER_ID,
    agentId: env.AGENT_ID,
    deploymentId: env.DEPLOYMENT_ID,
    runtimeProvider: env.RUNTIME_PROVIDER,
    eventId: call.invocationId,
    traceId: call.traceId,
    timestampMs: call.admittedAtMs,
    requests: 1,
    llmTokens: usage.tokens,
    computeMs: usage.computeMs,
    toolCalls: usage.toolCalls,
    errors: errorClass === undefined ? 0 : 1,
    errorClass,
  };
  try {
    await post(env, encode(stringifyJson(event)));
  } catch {
    // A report that cannot be made must not fail the call; the gateway has its own record.
    console.warn("The telemetry report could not be made.");
  }
}

async function post(env, body) {
  const headers = {
    "Content-Type": "application/json",
    "X-Telemetry-Deployment-Id": env.DEPLOYMENT_ID,
    "X-Telemetry-Signature": `v1=${await signature(env.TELEMETRY_SECRET, body)}`,
  };
  for (let index = 0; index < DELAYS_MS.length; index++) {
    await sleep(DELAYS_MS[index]);
    if (await delivered(env.TELEMETRY_REPORT_URL, headers, body)) return;
  }
  console.warn("The telemetry report was not accepted.");
}

/** Whether there is an answer that another try would not change. */
async function delivered(url, headers, body) {
  try {
    const response = await platformFetch(url, {
      method: "POST",
      headers,
      body,
      redirect: "manual",
      signal: timeoutSignal(TRY_TIMEOUT_MS),
    });
    await response.body?.cancel();
    return response.status !== 429 && response.status < 500;
  } catch {
    return false;
  }
}

// Cached together with its secret: only a caller who knows the secret can have anything signed.
let cached = { secret: null, key: null };

async function signature(secret, body) {
  if (cached.secret !== secret) {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    const key = await importKey("raw", fromBase64Url(secret), algorithm, false, ["sign"]);
    cached = { secret, key };
  }
  return toHex(await sign("HMAC", cached.key, body));
}
