// Runs the customer's module for one call, whichever of the two forms it has, and returns its
// answer in one form: `{chunks, usage()}`. `chunks` is an iterator of text, pulled as the caller
// reads; `usage()` is what the module reported, known once the chunks have ended.

import customer from "./webhost-customer.mjs";
import { ownKeys } from "./webhost-platform.mjs";
import { runtimeError } from "./webhost-errors.mjs";
import { runPlain } from "./webhost-plain.mjs";
import { wholeAnswer } from "./webhost-protocol.mjs";

const RESERVED = {
  __proto__: null,
  TELEMETRY_SECRET: true,
  TELEMETRY_REPORT_URL: true,
  USER_ID: true,
  AGENT_ID: true,
  DEPLOYMENT_ID: true,
  RUNTIME_PROVIDER: true,
};

/** The user's own variables and secrets: none of the platform's bindings. */
export function userEnvOf(env) {
  const userEnv = {};
  const names = ownKeys(env);
  for (let index = 0; index < names.length; index++) {
    const name = names[index];
    if (RESERVED[name] === undefined && !name.startsWith("WEBHOST_")) userEnv[name] = env[name];
  }
  return userEnv;
}

/** Whether the module has a form that can be called. */
export function isCallable() {
  return typeof customer?.invoke === "function" || typeof customer?.fetch === "function";
}

/**
 * @param call of `parseCall`, with the platform's session id
 * @param {{userEnv: object, session: object, signal: AbortSignal, path: string,
 *   headers: Headers, ctx: ExecutionContext}} environment
 * @returns {Promise<{chunks: Iterator<string> | AsyncIterator<string>, usage: () => unknown}>}
 */
export async function runAgent(call, environment) {
  if (typeof customer?.invoke === "function") return await runInvoke(call, environment);
  if (typeof customer?.fetch === "function") return await runPlain(customer, call, environment);
  throw runtimeError("The module's default export has neither invoke() nor fetch().");
}

async function runInvoke(call, { userEnv, session, signal }) {
  const { input, options, metadata, traceId, sessionId, invocationId } = call;
  const request = { input, options, metadata, traceId, sessionId, invocationId };
  const answer = await customer.invoke(request, { env: userEnv, session, traceId, signal });
  const text = typeof answer === "string" ? answer : answer?.output?.text;
  if (typeof text === "string") return wholeAnswer(text, answer.usage);
  const iterate = answer?.[Symbol.asyncIterator] ?? answer?.[Symbol.iterator];
  if (typeof iterate === "function") return streamedAnswer(iterate.call(answer));
  throw runtimeError("invoke() gave neither text, an invoke/v1 response nor an iterable of text.");
}

/** A generator may end with `return {usage}`. */
function streamedAnswer(iterator) {
  let usage;
  const chunks = {
    async next() {
      const { done, value } = await iterator.next();
      if (done) usage = value?.usage;
      return { done, value: done ? undefined : await value };
    },
    return: () => iterator.return?.(),
  };
  return { chunks, usage: () => usage };
}
