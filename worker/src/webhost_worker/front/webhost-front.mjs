// The front's main module: what stands between the gateway and an agent's own code.
//
// Consumes, under `/dep/<deploymentId>` (a route of the installation's host) or, for the front of
// one deployment, under `/` too (a host of its own):
//   POST invoke            from the gateway; X-Webhost-Invoke-Signature over
//                          <t>.<deploymentId>.<body>
//   POST __webhost/probe   from the deployer; X-Webhost-Platform-Signature over the same
// Emits: invoke/v1 answers as JSON or SSE; one telemetry report per call.
// Guarantees: the agent's script is called only for a call that the gateway signed for this
// deployment in the last minute. None of its code runs in this isolate, and what it answers is
// taken as text, bounded in size and time. Errors are {"error": {code, message, retryable,
// details}}: 400 INVALID_REQUEST, 401 UNAUTHENTICATED, 404 NOT_FOUND, 405 METHOD_NOT_ALLOWED,
// 503 UNAVAILABLE (the session store, before the agent was called),
// 410 SESSION_EXPIRED (before the agent was called, or it was purged while the agent ran),
// 500 RUNTIME_ERROR (the agent's, or its turn could not be stored), 500 INTERNAL (the front's).

import { answerTurn } from "./webhost-answer.mjs";
import { deploymentOf } from "./webhost-deployment.mjs";
import { methodNotAllowed, notFound, PlatformError, runtimeError } from "./webhost-errors.mjs";
import { parseBody, parseCall, PROTOCOL } from "./webhost-protocol.mjs";
import { signedBody } from "./webhost-signature.mjs";
import { withDeadline } from "./webhost-time.mjs";
import { Turn } from "./webhost-turn.mjs";

const ENDPOINTS = { __proto__: null, "/invoke": invoke, "/__webhost/probe": probe };
const PROBE_LIMIT_MS = 8_000;

export default {
  async fetch(request, env, ctx) {
    try {
      const { deploymentId, path } = addressOf(request, env);
      const endpoint = ENDPOINTS[path];
      if (endpoint === undefined) throw notFound();
      if (request.method !== "POST") throw methodNotAllowed();
      return await endpoint(deploymentId, request, env, ctx);
    } catch (error) {
      if (error instanceof PlatformError) return error.toResponse();
      console.error("The front failed.", error);
      return new PlatformError(500, "INTERNAL", "The platform failed.").toResponse();
    }
  },
};

/** The front of one deployment serves no other; that of an installation serves what is named. */
function addressOf(request, env) {
  const { pathname } = new URL(request.url);
  const [, named, path] = /^\/dep\/([A-Za-z0-9_]{1,64})(\/.*)$/.exec(pathname) ?? [];
  const deploymentId = env.DEPLOYMENT_ID ?? named;
  if (deploymentId === undefined) throw notFound();
  return { deploymentId, path: named === deploymentId ? path : pathname };
}

async function invoke(deploymentId, request, env, ctx) {
  const startedAtMs = Date.now();
  const keys = env.WEBHOST_INVOKE_PUBLIC_KEYS;
  const body = parseBody(
    await signedBody(request, "X-Webhost-Invoke-Signature", keys, deploymentId),
  );
  const deployment = deploymentOf(env, deploymentId, body.deployment);
  const turn = new Turn(parseCall(body, request), deployment, ctx, startedAtMs);
  const answer = answerTurn(turn, request, ctx);
  // A caller that disconnects before the answer must not prevent the turn's report.
  ctx.waitUntil(answer);
  return await answer;
}

/** Shows that this deployment's code is what answers here. The agent's handler is not called. */
async function probe(deploymentId, request, env) {
  const keys = env.WEBHOST_PLATFORM_PUBLIC_KEYS;
  const body = parseBody(
    await signedBody(request, "X-Webhost-Platform-Signature", keys, deploymentId),
  );
  const { agent } = deploymentOf(env, deploymentId, body.deployment);
  const callable = await withDeadline(agent.isCallable(), PROBE_LIMIT_MS);
  if (callable !== "yes") {
    throw runtimeError("The module's default export has neither invoke() nor fetch().");
  }
  return Response.json({ protocol: PROTOCOL, deploymentId });
}
