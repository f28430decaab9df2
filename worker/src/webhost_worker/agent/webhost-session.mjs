// The client of the session store, over the service binding WEBHOST_SESSIONS. The binding itself
// identifies the agent; nothing here could name another. The store's protocol is described at the
// top of webhost-sessions.mjs.

import { SessionError, sessionExpired, storeUnavailable } from "./webhost-errors.mjs";

/** The session of a call: opens `sessionId`, or a new one when it is undefined.
 *  @throws {PlatformError} 410 SESSION_EXPIRED: the agent has no such session; 503 UNAVAILABLE */
export async function openSession(store, sessionId) {
  try {
    const { sessionId: id } = await ask(store, "open", { sessionId });
    return new Session(store, id);
  } catch (error) {
    throw error.code === "SESSION_EXPIRED" ? sessionExpired() : storeUnavailable();
  }
}

class Session {
  #store;

  constructor(store, id) {
    this.#store = store;
    this.id = id;
  }

  #ask(operation, body) {
    return ask(this.#store, operation, { sessionId: this.id, ...body });
  }

  /** Adds a finished turn to the history. For the platform alone. */
  async append(messages) {
    await this.#ask("append", { messages });
  }

  /** What customer code gets as `context.session`. */
  forCustomer() {
    return Object.freeze({
      id: this.id,
      get: async (key) => (await this.#ask("get", { key })).value,
      put: async (key, value) => void (await this.#ask("put", { key, value })),
      delete: async (key) => (await this.#ask("delete", { key })).deleted,
      list: async ({ prefix = "" } = {}) => (await this.#ask("list", { prefix })).keys,
      history: async () => (await this.#ask("history", {})).messages,
    });
  }
}

const SILENT = "The session store does not answer.";

async function ask(store, operation, question) {
  const body = JSON.stringify(question);
  let response;
  let answer;
  try {
    response = await store.fetch(`https://sessions/v1/${operation}`, { method: "POST", body });
    answer = await response.json();
  } catch {
    throw new SessionError("UNAVAILABLE", SILENT);
  }
  if (response.ok) return answer;
  throw new SessionError(answer?.error?.code ?? "UNAVAILABLE", answer?.error?.message ?? SILENT);
}
