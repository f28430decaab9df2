// One call as it runs: its session, the customer's answer chunk by chunk, its usage and its
// history. `webhost-answer.mjs` decides how the chunks reach the caller.

import { runAgent, userEnvOf } from "./webhost-agent.mjs";
import { agentFailure } from "./webhost-errors.mjs";
import { now, sleep } from "./webhost-platform.mjs";
import { charactersOf, PROTOCOL, usageOf } from "./webhost-protocol.mjs";
import { openSession } from "./webhost-session.mjs";
import { reportCall } from "./webhost-telemetry.mjs";
import { AnswerText, wholeCharacters } from "./webhost-text.mjs";

/** So long an abandoned module may take to come to its next `yield`, and to clean up. */
const CLOSING_MS = 10_000;

export class Turn {
  #env;
  #ctx;
  #userEnv;
  #startedAtMs;
  #session = null;
  #answer = null;
  #charactersIn = 0;
  #written = new AnswerText();
  #controller = new AbortController();
  #abandoned = new Promise((resolve) => {
    this.#controller.signal.addEventListener("abort", () => resolve({ done: true }));
  });

  constructor(call, env, ctx, startedAtMs) {
    this.call = call;
    this.#env = env;
    this.#ctx = ctx;
    this.#userEnv = userEnvOf(env);
    this.#startedAtMs = startedAtMs;
  }

  /** Opens the session, then calls the module; settles when the module has given its answer. */
  async start(headers) {
    this.#session = await openSession(this.#env.WEBHOST_SESSIONS, this.call.sessionId);
    this.#charactersIn = charactersOf(this.call.input.messages);
    const call = { ...this.call, sessionId: this.#session.id };
    const answer = await runAgent(call, {
      userEnv: this.#userEnv,
      session: this.#session.forCustomer(),
      signal: this.#controller.signal,
      path: this.#env.WEBHOST_INVOKE_PATH ?? "/invoke",
      headers,
      ctx: this.#ctx,
    });
    this.#answer = { ...answer, chunks: wholeCharacters(answer.chunks) };
  }

  /** The next chunk, `{done, value}`; done at once when the turn has been abandoned. */
  async next() {
    const step = await Promise.race([this.#answer.chunks.next(), this.#abandoned]);
    if (!step.done) this.#written.add(step.value);
    return step;
  }

  /** Stops the module: its signal aborts, its iterator is told to return. */
  abandon() {
    if (this.abandoned) return;
    this.#controller.abort();
    // A generator that waits for something else returns only after that; the call waits so long.
    this.#ctx.waitUntil(Promise.race([this.#closeChunks(), sleep(CLOSING_MS)]));
  }

  async #closeChunks() {
    try {
      await this.#answer?.chunks.return?.();
    } catch {
      // The turn is over; an error from its iterator changes nothing.
    }
  }

  get abandoned() {
    return this.#controller.signal.aborted;
  }

  /** Adds the turn to the session's history, which the session's next turn then sees. */
  async save() {
    const asked = this.call.input.messages.filter((message) => message.role === "user");
    await this.#session.append([...asked, { role: "assistant", content: this.#written.text }]);
  }

  usage() {
    return usageOf(this.#answer?.usage(), {
      charactersIn: this.#charactersIn,
      charactersOut: this.#written.text.length,
      computeMs: now() - this.#startedAtMs,
    });
  }

  /** Posts the telemetry after the answer, without delaying it. */
  report(usage, errorClass) {
    this.#ctx.waitUntil(reportCall(this.#env, this.call, usage, errorClass));
  }

  failure(error) {
    return agentFailure(error, this.#userEnv);
  }

  /** The `meta` event. */
  meta() {
    const { traceId, invocationId } = this.call;
    const { AGENT_ID: agentId, DEPLOYMENT_ID: deploymentId } = this.#env;
    const sessionId = this.#session.id;
    return { protocol: PROTOCOL, traceId, invocationId, agentId, deploymentId, sessionId };
  }

  /** The JSON answer. */
  document(usage) {
    const { traceId } = this.call;
    const output = { text: this.#written.text };
    return { protocol: PROTOCOL, traceId, sessionId: this.#session.id, output, usage };
  }
}
