// The session Worker: one script per installation, the sessions of all its agents.
//
// For fronts, over a service binding whose `props` say for which agents; the caller cannot change
// them. Without either of these it is the public:
//   {agentId}         the front of one agent, which it acts for, whatever the request says
//   {anyAgent: true}  the front of the whole installation: the agent is in X-Webhost-Agent
//                     (since protocol version 2)
// All later versions must stay compatible, since old deployments keep their old front. All are POST
// with a JSON body, of at most 8 MiB for `append` and 256 KiB for the others.
//   /v1/open     {sessionId?}                 → {sessionId}; absent: a new session
//   /v1/append   {sessionId, messages: [{role, content}]} → {}
//   /v1/get      {sessionId, key}             → {value}, or {} when there is none
//   /v1/put      {sessionId, key, value}      → {}; any JSON value of at most 128 KiB
//   /v1/delete   {sessionId, key}             → {deleted: boolean}
//   /v1/list     {sessionId, prefix?}         → {keys: [...]}, in order
//   /v1/history  {sessionId}                  → {messages: [{role, content, atMs}]}, oldest first
// Errors: 410 SESSION_EXPIRED (unknown, expired, another agent's, or purged: all the same),
// 400 INVALID_REQUEST, 413 SESSION_LIMIT.
//
// For the deployer, publicly, below any prefix, with X-Webhost-Platform-Signature over
// <t>.sessions.<body>:
//   POST __webhost/sessions/purge    {agentId} → {purged: true}; again and again
//   POST __webhost/sessions/version  {}        → {protocolVersion}
//
// Guarantees: an agent's sessions outlive its deployments; after a purge nothing of the agent is
// left and no call that is still running can make a session again.

import { readBounded } from "./webhost-bytes.mjs";
import { AgentSessions, SHARDS, shardOf } from "./webhost-sessions-store.mjs";
import { invalidRequest, methodNotAllowed, notFound, PlatformError } from "./webhost-errors.mjs";
import { signedBody } from "./webhost-signature.mjs";

export { AgentSessions };

const PROTOCOL_VERSION = 2;
const OPERATIONS = ["open", "append", "get", "put", "delete", "list", "history"];
const BODY_LIMIT = 256 * 1024;
const APPEND_LIMIT = 8 * 1024 * 1024;
const PUBLIC = { __proto__: null, purge, version };

export default {
  async fetch(request, env, ctx) {
    try {
      const { agentId, anyAgent } = ctx.props ?? {};
      if (typeof agentId === "string" && agentId !== "")
        return await forAgent(request, env, agentId);
      if (anyAgent === true) return await forAgent(request, env, namedAgent(request));
      return await forDeployer(request, env);
    } catch (error) {
      if (error instanceof PlatformError) return error.toResponse();
      console.error("The session store failed.", error);
      return new PlatformError(500, "INTERNAL", "The session store failed.").toResponse();
    }
  },
};

function namedAgent(request) {
  const agentId = request.headers.get("X-Webhost-Agent");
  if (agentId === null || agentId === "") throw invalidRequest("The agent is not named.");
  return agentId;
}

async function forAgent(request, env, agentId) {
  const operation = /^\/v1\/([a-z]+)$/.exec(new URL(request.url).pathname)?.[1];
  if (!OPERATIONS.includes(operation)) throw notFound();
  if (request.method !== "POST") throw methodNotAllowed();
  const body = parseObject(await boundedText(request, operation));
  const shard = shardOf(body.sessionId);
  if (shard === null) throw new PlatformError(410, "SESSION_EXPIRED", "There is no such session.");
  const { status, ...answer } = await storeOf(env, agentId, shard).perform(operation, shard, body);
  return Response.json(answer, { status });
}

async function boundedText(request, operation) {
  const body = await readBounded(request.body, operation === "append" ? APPEND_LIMIT : BODY_LIMIT);
  if (body === null) throw new PlatformError(413, "SESSION_LIMIT", "The body is too large.");
  return new TextDecoder().decode(body);
}

async function forDeployer(request, env) {
  const name = /\/__webhost\/sessions\/([a-z]+)$/.exec(new URL(request.url).pathname)?.[1];
  const answer = PUBLIC[name];
  if (answer === undefined) throw notFound();
  if (request.method !== "POST") throw methodNotAllowed();
  const keys = env.WEBHOST_PLATFORM_PUBLIC_KEYS;
  const body = await signedBody(request, "X-Webhost-Platform-Signature", keys, "sessions");
  return Response.json(await answer(env, parseObject(new TextDecoder().decode(body))));
}

function version() {
  return { protocolVersion: PROTOCOL_VERSION };
}

async function purge(env, { agentId }) {
  if (typeof agentId !== "string" || agentId === "") throw invalidRequest("agentId is missing.");
  const shards = Array.from({ length: SHARDS }, (_, shard) => shard);
  await Promise.all(shards.map((shard) => storeOf(env, agentId, shard).purge()));
  return { purged: true };
}

function storeOf(env, agentId, shard) {
  return env.SESSIONS.get(env.SESSIONS.idFromName(`${agentId}/${shard}`));
}

function parseObject(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null)
    throw invalidRequest("The body is not an object.");
  return value;
}
