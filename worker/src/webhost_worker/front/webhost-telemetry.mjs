// The Worker's own report of a call: one signed POST after the answer, three tries.
//
// Emits: X-Telemetry-Deployment-Id, X-Telemetry-Signature: v1=<hex HMAC-SHA256 of the raw body>.
// The event id is the invocation's, so a repeated try counts once; the trace context is the call's.
// Never throws.

import { toHex } from "./webhost-bytes.mjs";
import { sleep } from "./webhost-time.mjs";

const DELAYS_MS = [0, 500, 2_000];
const TRY_TIMEOUT_MS = 5_000;
const HMAC = { name: "HMAC", hash: "SHA-256" };

/**
 * @param deployment of `deploymentOf`
 * @param {{invocationId: string, traceId: string, admittedAtMs: number, startedAtMs: number,
 *   traceparent?: string}} call
 * @param {{tokens: number, computeMs: number, toolCalls: number}} usage
 * @param {string | undefined} errorClass of a call that failed
 */
export async function reportCall(deployment, call, usage, errorClass) {
  const event = {
    userId: deployment.userId,
    agentId: deployment.agentId,
    deploymentId: deployment.deploymentId,
    runtimeProvider: deployment.runtimeProvider,
    eventId: call.invocationId,
    traceId: call.traceId,
    timestampMs: call.admittedAtMs,
    requests: 1,
    llmTokens: usage.tokens,
    computeMs: usage.computeMs,
    toolCalls: usage.toolCalls,
    errors: errorClass === undefined ? 0 : 1,
    errorClass,
    startedAtMs: call.startedAtMs,
  };
  try {
    await post(deployment, new TextEncoder().encode(JSON.stringify(event)), call.traceparent);
  } catch {
    // A report that cannot be made must not fail the call; the gateway has its own record.
    console.warn("The telemetry report could not be made.");
  }
}

async function post({ deploymentId, reportUrl, telemetryKey }, body, traceparent) {
  const key = await crypto.subtle.importKey("raw", await telemetryKey(), HMAC, false, ["sign"]);
  const headers = {
    "Content-Type": "application/json",
    "X-Telemetry-Deployment-Id": deploymentId,
    "X-Telemetry-Signature": `v1=${toHex(await crypto.subtle.sign("HMAC", key, body))}`,
  };
  if (traceparent !== undefined) headers.traceparent = traceparent;
  for (const delay of DELAYS_MS) {
    await sleep(delay);
    if (await delivered(reportUrl, headers, body)) return;
  }
  console.warn("The telemetry report was not accepted.");
}

/** Whether there is an answer that another try would not change. */
async function delivered(url, headers, body) {
  try {
    const signal = AbortSignal.timeout(TRY_TIMEOUT_MS);
    const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal });
    await response.body?.cancel();
    return response.status !== 429 && response.status < 500;
  } catch {
    return false;
  }
}
