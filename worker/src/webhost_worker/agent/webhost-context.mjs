// What a call's context holds: the session, and the end of the call.

/** So long a module whose caller has gone may take to come to its next `yield`, and to clean up. */
const CLOSING_MS = 10_000;

export class Context {
  #caller;
  #ctx;
  #controller = new AbortController();
  #gone = null;

  constructor({ env, ctx }, { traceId, sessionId }, caller) {
    this.env = env;
    this.traceId = traceId;
    this.session = sessionOf(sessionId, (operation, question) =>
      this.#caller.session(operation, question),
    );
    // The stub that was passed in ends with the method's own promise, which a stream outlives.
    this.#caller = caller.dup();
    this.#ctx = ctx;
  }

  /** The platform's `waitUntil`. */
  waitUntil(promise) {
    this.#ctx.waitUntil(promise);
  }

  /** Aborts when nobody waits for the answer any more. */
  get signal() {
    this.watch();
    return this.#controller.signal;
  }

  /** Asks to be told when the caller goes. */
  watch() {
    this.#gone ??= this.#caller.gone().then(
      () => this.#end(),
      () => this.#end(),
    );
  }

  #end() {
    this.#controller.abort();
    return { gone: true };
  }

  /** `{gone: false, value}` of the promise, or `{gone: true}` if the caller goes before. */
  async unlessGone(promise) {
    const settled = promise.then((value) => ({ gone: false, value }));
    return await (this.#gone === null ? settled : Promise.race([settled, this.#gone]));
  }

  /** Lets an iterator that nobody reads any more clean up. */
  close(iterator) {
    // A generator that waits for something else returns only after that.
    const closed = (async () => await iterator.return?.())().catch(() => {});
    this.waitUntil(Promise.race([closed, scheduler.wait(CLOSING_MS)]));
  }
}

/** What a session operation was refused with; customer code may catch it and read `code`. */
class SessionError extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

const ENDED = { code: "SESSION_EXPIRED", message: "The call has ended." };

function sessionOf(id, operate) {
  const ask = async (operation, question) => {
    // The front takes no call any more when it has ended the one that this session is of.
    const answer = await operate(operation, question).catch(() => ({ error: ENDED }));
    if (answer.error !== undefined) throw new SessionError(answer.error);
    return answer;
  };
  return Object.freeze({
    id,
    get: async (key) => (await ask("get", { key })).value,
    put: async (key, value) => void (await ask("put", { key, value: jsonOf(value) })),
    delete: async (key) => (await ask("delete", { key })).deleted,
    list: async ({ prefix = "" } = {}) => (await ask("list", { prefix })).keys,
    history: async () => (await ask("history", {})).messages,
  });
}

/** The value as the store will keep it; undefined stays, and is refused there. */
const jsonOf = (value) => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));
