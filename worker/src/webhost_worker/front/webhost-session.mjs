// The client of the session store, over the service binding WEBHOST_SESSIONS, and what an agent's
// script gets of its call. The store's protocol is described at the top of webhost-sessions.mjs.

import { RpcTarget } from "cloudflare:workers";

import { runtimeError, sessionExpired, storeUnavailable } from "./webhost-errors.mjs";

const SILENT = { code: "UNAVAILABLE", message: "The session store does not answer." };
const ENDED = { code: "SESSION_EXPIRED", message: "The call has ended." };
const USED_UP = { code: "SESSION_LIMIT", message: "The call has used its session too much." };
const TOO_LARGE = { code: "SESSION_LIMIT", message: "A value has at most 131,072 characters." };
const OPERATIONS = ["get", "put", "delete", "list", "history"];
/** What one call may ask of its session: so often, so much in all, and so much at once. */
const OPERATIONS_OF_A_CALL = 1_000;
const CHARACTERS_OF_A_CALL = 64 * 1024 * 1024;
const OPERATIONS_AT_ONCE = 4;
const QUESTION_CHARACTERS = 256 * 1024;
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
  /** Characters of all answers. */
  received = 0;

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
      const text = await response.text();
      this.received += text.length;
      const answer = JSON.parse(text);
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
  #operations = 0;
  #asked = 0;
  #slots = new Slots(OPERATIONS_AT_ONCE);
  #resolve;
  #gone = new Promise((resolve) => (this.#resolve = resolve));

  constructor(session) {
    super();
    this.#session = session;
  }

  /** One operation on the call's session: the store's answer, or `{error: {code, message}}`. */
  async session(operation, question) {
    if (this.#session === null || !OPERATIONS.includes(operation)) return { error: ENDED };
    this.#operations += 1;
    const used = this.#asked + this.#session.received;
    if (this.#operations > OPERATIONS_OF_A_CALL || used > CHARACTERS_OF_A_CALL) {
      return { error: USED_UP };
    }
    const { key, value, prefix } = Object(question);
    const { length } = JSON.stringify({ key, value, prefix });
    this.#asked += length;
    if (length > QUESTION_CHARACTERS) return { error: TOO_LARGE };
    return await this.#slots.run(async () => {
      if (this.#session === null) return { error: ENDED };
      return await this.#session.ask(operation, { key, value, prefix });
    });
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

/** Runs so many at once; the others wait for their turn. */
class Slots {
  #free;
  #waiting = [];

  constructor(count) {
    this.#free = count;
  }

  async run(work) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
