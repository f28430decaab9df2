// The Worker's entry module: the platform's endpoints in front of the customer's module.
//
// Consumes, under `/dep/<deploymentId>` (a route of the installation's host) or under `/` (a host
// of its own):
//   POST invoke            from the gateway; X-Webhost-Invoke-Signature over
//                          <t>.<deploymentId>.<body>
//   POST __webhost/probe   from the deployer; X-Webhost-Platform-Signature over the same
// Emits: invoke/v1 answers as JSON or SSE; one telemetry report per call.
// Guarantees: customer code runs only for a call that the gateway signed for this deployment in
// the last minute. Errors are {"error": {code, message, retryable, details}}: 400 INVALID_REQUEST,
// 401 UNAUTHENTICATED, 404 NOT_FOUND, 405 METHOD_NOT_ALLOWED, 413 PAYLOAD_TOO_LARGE,
// 503 UNAVAILABLE (the session store, before customer code), 410 SESSION_EXPIRED (before customer
// code, or the agent was purged while it ran), 500 RUNTIME_ERROR (the customer's).
//
// The import order matters: what captures primitives (platform, signature, telemetry) is evaluated
// before the customer's module, which webhost-agent.mjs imports.

import { now } from "./webhost-platform.mjs";
import { signedBody } from "./webhost-signature.mjs";
import "./webhost-telemetry.mjs";
import { methodNotAllowed, notFound, PlatformError, runtimeError } from "./webhost-errors.mjs";
import { parseCall, PROTOCOL } from "./webhost-protocol.mjs";
import { answerTurn } from "./webhost-answer.mjs";
import { isCallable } from "./webhost-agent.mjs";
import { Turn } from "./webhost-turn.mjs";

const ENDPOINTS = { __proto__: null, "/invoke": invoke, "/__webhost/probe": probe };

export default {
  async fetch(request, env, ctx) {
    try {
      const endpoint = ENDPOINTS[pathOf(request, env)];
      if (endpoint === undefined) throw notFound();
      if (request.method !== "POST") throw methodNotAllowed();
      return await endpoint(request, env, ctx);
    } catch (error) {
      if (error instanceof PlatformError) return error.toResponse();
      console.error("The entry module failed.", error?.name);
      return new PlatformError(500, "INTERNAL", "The platform failed.").toResponse();
    }
  },
};

function pathOf(request, env) {
  const { pathname } = new URL(request.url);
  const base = `/dep/${env.DEPLOYMENT_ID}/`;
  return pathname.startsWith(base) ? pathname.slice(base.length - 1) : pathname;
}

async function invoke(request, env, ctx) {
  const startedAtMs = now();
  const { WEBHOST_INVOKE_PUBLIC_KEYS: keys, DEPLOYMENT_ID: audience } = env;
  const body = await signedBody(request, "X-Webhost-Invoke-Signature", keys, audience);
  const turn = new Turn(parseCall(body), env, ctx, startedAtMs);
  const answer = answerTurn(turn, request, ctx);
  // A caller that disconnects before the answer must not prevent the turn's report.
  ctx.waitUntil(answer);
  return await answer;
}

/** Shows that this deployment's code is what answers here. Customer code is not called. */
async function probe(request, env) {
  const { WEBHOST_PLATFORM_PUBLIC_KEYS: keys, DEPLOYMENT_ID: deploymentId } = env;
  await signedBody(request, "X-Webhost-Platform-Signature", keys, deploymentId);
  if (!isCallable()) {
    throw runtimeError("The module's default export has neither invoke() nor fetch().");
  }
  return Response.json({ protocol: PROTOCOL, deploymentId });
}
