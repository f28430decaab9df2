// One call as it runs: its session, the agent's answer chunk by chunk, its usage and its history.
// `webhost-answer.mjs` decides how the chunks reach the caller.
//
// Guarantees: it ends when its caller goes or its time is over, whatever the agent does; from then
// on the agent's script can neither use the session nor be heard. It is reported once.

import { agentFailed, PlatformError, runtimeError, sessionExpired } from "./webhost-errors.mjs";
import { StreamedAnswer, WholeAnswer } from "./webhost-frames.mjs";
import { charactersOf, PROTOCOL, usageOf } from "./webhost-protocol.mjs";
import { Caller, openSession } from "./webhost-session.mjs";
import { reportCall } from "./webhost-telemetry.mjs";
import { AnswerText, WholeCharacters } from "./webhost-text.mjs";

const CALLER_GONE = new PlatformError(499, "CANCELLED", "The caller has gone.");

export class Turn {
  #deployment;
  #ctx;
  #startedAtMs;
  #session = null;
  #caller = null;
  #answer = null;
  #characters = new WholeCharacters();
  #written = new AnswerText();
  #timer;
  #stop;
  #stopped = new Promise((_, reject) => (this.#stop = reject));

  constructor(call, deployment, ctx, startedAtMs) {
    this.call = call;
    this.#deployment = deployment;
    this.#ctx = ctx;
    this.#startedAtMs = startedAtMs;
    this.#stopped.catch(() => {});
    const late = () => this.#stop(runtimeError("The agent did not answer in time."));
    this.#timer = setTimeout(late, call.timeoutMs);
  }

  /** The caller has gone. */
  abandon() {
    this.#stop(CALLER_GONE);
  }

  /** Opens the session, then calls the agent; settles when that has given its answer. */
  async start() {
    const { sessions, agentId, agent } = this.#deployment;
    const { sessionId, streamed } = this.call;
    this.#session = await this.#unlessStopped(openSession(sessions, agentId, sessionId));
    this.#caller = new Caller(this.#session);
    const call = { ...this.call, sessionId: this.#session.id };
    const answered = await this.#unlessStopped(
      streamed ? agent.stream(call, this.#caller) : agent.answer(call, this.#caller),
    );
    this.#answer = streamed ? new StreamedAnswer(answered) : new WholeAnswer(answered);
  }

  /** The next chunk of a streamed answer, null at its end. */
  async next() {
    if (this.#characters.ended) return null;
    return this.#take(await this.#unlessStopped(this.#answer.next()));
  }

  /** Takes all of an answer that is there. */
  takeAll() {
    while (this.#take(this.#answer.next()) !== null);
  }

  #take({ done, value }) {
    const text = done ? this.#characters.end() : this.#characters.add(value);
    this.#written.add(text);
    return done && text === "" ? null : text;
  }

  async #unlessStopped(promise) {
    return await Promise.race([promise, this.#stopped]);
  }

  /** Ends a turn that was answered; returns its usage. The session's next turn sees it. */
  async finish() {
    const asked = this.call.input.messages.filter((message) => message.role === "user");
    await this.#session.append([...asked, { role: "assistant", content: this.#written.text }]);
    return this.#end();
  }

  /** Ends a turn that failed; returns what its caller may see of the error. */
  fail(error) {
    const gone = error === CALLER_GONE;
    this.#end(gone ? undefined : "runtime");
    if (error instanceof PlatformError) return this.#session?.expired ? sessionExpired() : error;
    return this.#session?.expired ? sessionExpired() : agentFailed(messageOf(error));
  }

  #end(errorClass) {
    clearTimeout(this.#timer);
    if (this.#caller !== null) Caller.end(this.#caller);
    this.#ctx.waitUntil(this.#answer?.cancel().catch(() => {}) ?? Promise.resolve());
    const usage = this.#usage();
    const call = { ...this.call, startedAtMs: this.#startedAtMs };
    this.#ctx.waitUntil(reportCall(this.#deployment, call, usage, errorClass));
    return usage;
  }

  #usage() {
    return usageOf(this.#answer?.usage, {
      // An agent that was never called has read nothing.
      charactersIn: this.#caller === null ? 0 : charactersOf(this.call.input.messages),
      charactersOut: this.#written.text.length,
      computeMs: Date.now() - this.#startedAtMs,
    });
  }

  /** The `meta` event. */
  meta() {
    const { traceId, invocationId } = this.call;
    const { agentId, deploymentId } = this.#deployment;
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

/** What came over RPC: an Error in any case, with whatever text the script chose. */
function messageOf(error) {
  return typeof error?.message === "string" ? error.message : "";
}
