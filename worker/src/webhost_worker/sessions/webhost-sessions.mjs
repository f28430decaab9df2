// The session Worker: one script per installation, the sessions of all its agents.
//
// For agents' Workers, over a service binding whose `props` identify the calling agent
// (`ctx.props.agentId`; the caller cannot change it). Version 1; all later versions must stay
// compatible with it, since old deployments keep their old entry. All are POST with a JSON body.
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

import { AgentSessions, SHARDS, shardOf } from "./webhost-sessions-store.mjs";
import { invalidRequest, methodNotAllowed, notFound, PlatformError } from "./webhost-errors.mjs";
import { signedBody } from "./webhost-signature.mjs";

export { AgentSessions };

const PROTOCOL_VERSION = 1;
const OPERATIONS = ["open", "append", "get", "put", "delete", "list", "history"];
const PUBLIC = { __proto__: null, purge, version };

export default {
  async fetch(request, env, ctx) {
    try {
      const agentId = ctx.props?.agentId;
      if (typeof agentId === "string" && agentId !== "")
        return await forAgent(request, env, agentId);
      return await forDeployer(request, env);
    } catch (error) {
      if (error instanceof PlatformError) return error.toResponse();
      console.error("The session store failed.", error);
      return new PlatformError(500, "INTERNAL", "The session store failed.").toResponse();
    }
  },
};

async function forAgent(request, env, agentId) {
  const operation = /^\/v1\/([a-z]+)$/.exec(new URL(request.url).pathname)?.[1];
  if (!OPERATIONS.includes(operation)) throw notFound();
  if (request.method !== "POST") throw methodNotAllowed();
  const body = parseObject(await request.text());
  const shard = shardOf(body.sessionId);
  if (shard === null) throw new PlatformError(410, "SESSION_EXPIRED", "There is no such session.");
  const { status, ...answer } = await storeOf(env, agentId, shard).perform(operation, shard, body);
  return Response.json(answer, { status });
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
