// The client of the session store, over the service binding WEBHOST_SESSIONS, and what an agent's
// script gets of its call. The store's protocol is described at the top of webhost-sessions.mjs.

import { RpcTarget } from "cloudflare:workers";

import { runtimeError, sessionExpired, storeUnavailable } from "./webhost-errors.mjs";

const SILENT = { code: "UNAVAILABLE", message: "The session store does not answer." };
const ENDED = { code: "SESSION_EXPIRED", message: "The call has ended." };
const OPERATIONS = ["get", "put", "delete", "list", "history"];
// The store keeps no more of a message, and takes no more than 8 MiB.
const MESSAGE_CHARACTERS = 128 * 1024;

/** The session of a call: opens `sessionId`, or a new one when it is undefined.
 *  @throws {PlatformError} 410 SESSION_EXPIRED: the agent has no such session; 503 UNAVAILABLE */
export async function openSession(binding, agentId, sessionId) {
  const session = new Session(binding, agentId, sessionId);
  const answer = await session.ask("open");
  if (answer.error !== undefined) throw session.expired ? sessionExpired() : storeUnavailable();
  session.id = answer.sessionId;
  return session;
}

class Session {
  #binding;
  #agentId;
  /** Whether the store has said that it has no such session. */
  expired = false;

  constructor(binding, agentId, id) {
    this.#binding = binding;
    this.#agentId = agentId;
    this.id = id;
  }

  /** The store's answer, or `{error: {code, message}}`. */
  async ask(operation, question) {
    const answer = await this.#post(operation, { ...question, sessionId: this.id });
    if (answer.error?.code === "SESSION_EXPIRED") this.expired = true;
    return answer;
  }

  async #post(operation, question) {
    try {
      const response = await this.#binding.fetch(`https://sessions/v1/${operation}`, {
        method: "POST",
        headers: { "X-Webhost-Agent": this.#agentId },
        body: JSON.stringify(question),
      });
      const answer = await response.json();
      return response.ok ? answer : { error: answer?.error ?? SILENT };
    } catch {
      return { error: SILENT };
    }
  }

  /** Adds a finished turn to the history. @throws {PlatformError} 410 SESSION_EXPIRED, 500 */
  async append(messages) {
    const kept = messages.map(({ role, content }) => {
      return { role, content: content.slice(0, MESSAGE_CHARACTERS) };
    });
    const { error } = await this.ask("append", { messages: kept });
    if (error !== undefined) throw this.expired ? sessionExpired() : runtimeError(error.message);
  }
}

/** What an agent's script is given of its call: the session while the call runs, and its end. */
export class Caller extends RpcTarget {
  #session;
  #resolve;
  #gone = new Promise((resolve) => (this.#resolve = resolve));

  constructor(session) {
    super();
    this.#session = session;
  }

  /** One operation on the call's session: the store's answer, or `{error: {code, message}}`. */
  async session(operation, question) {
    if (this.#session === null || !OPERATIONS.includes(operation)) return { error: ENDED };
    const { key, value, prefix } = Object(question);
    return await this.#session.ask(operation, { key, value, prefix });
  }

  /** Settles when nobody waits for the answer any more. */
  async gone() {
    await this.#gone;
  }

  /** Ends the call. A static method, since a script could call any other. */
  static end(caller) {
    caller.#session = null;
    caller.#resolve();
  }
}
