// What comes back from an agent's script: lines of JSON, as one text or as a stream of bytes.
//
//   ["text", string]               a chunk of the answer
//   ["end", {tokens?, toolCalls?}] the answer is complete, and what the module says it used
//   ["fail", string]               the agent failed, and why
//
// The script is the customer's: whatever it sends, only text and two numbers come out of here; each
// line, their number and their sum are bounded; what is none of the three is the agent's error.

import { agentFailed, runtimeError } from "./webhost-errors.mjs";

const FRAME_LIMIT = 100_000;
const LINE_LIMIT = 1024 * 1024;
// A character of the answer's 4 MiB takes at most six bytes of JSON ("\u001f").
const TOTAL_LIMIT = 26 * 1024 * 1024;

const unusable = () => runtimeError("The agent's script answered with something unusable.");
const tooLarge = () => runtimeError("The agent's answer is over 4 MiB.");

/** Reads frames one after the other, and keeps what the last one says of usage. */
class Frames {
  usage = {};
  #count = 0;

  /** The step in a line: `{done, value}`. @throws {PlatformError} 500 RUNTIME_ERROR */
  step(line) {
    if (line === undefined) throw runtimeError("The agent's answer broke off.");
    if (++this.#count > FRAME_LIMIT)
      throw runtimeError("The agent's answer comes in too many pieces.");
    const [kind, value] = parsed(line);
    if (kind === "text" && typeof value === "string") return { done: false, value };
    if (kind === "fail" && typeof value === "string") throw agentFailed(value);
    if (kind !== "end") throw unusable();
    this.usage = { tokens: value?.tokens, toolCalls: value?.toolCalls };
    return { done: true };
  }
}

/** An answer that came as one text. */
export class WholeAnswer extends Frames {
  #lines;

  constructor(text) {
    super();
    if (typeof text !== "string") throw unusable();
    if (text.length > TOTAL_LIMIT) throw tooLarge();
    this.#lines = text.split("\n", FRAME_LIMIT + 1)[Symbol.iterator]();
  }

  next() {
    return this.step(this.#lines.next().value);
  }

  async cancel() {}
}

/** An answer in a stream, line by line as it is written. */
export class StreamedAnswer extends Frames {
  #reader;
  #lines;

  constructor(stream) {
    super();
    if (!(stream instanceof ReadableStream)) throw unusable();
    this.#reader = stream.getReader();
    this.#lines = linesOf(this.#reader);
  }

  async next() {
    return this.step((await this.#lines.next()).value);
  }

  /** Takes no more of it. */
  async cancel() {
    await this.#reader.cancel();
  }
}

function parsed(line) {
  try {
    const frame = JSON.parse(line);
    if (Array.isArray(frame)) return frame;
  } catch {
    // As any other line that is no frame.
  }
  throw unusable();
}

async function* linesOf(reader) {
  const decoder = new TextDecoder();
  let rest = [];
  let length = 0;
  let total = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (!(value instanceof Uint8Array)) throw unusable();
    total += value.length;
    if (total > TOTAL_LIMIT) throw tooLarge();
    const parts = decoder.decode(value, { stream: true }).split("\n");
    for (const part of parts.slice(0, -1)) {
      yield rest.join("") + part;
      rest = [];
      length = 0;
    }
    rest.push(parts.at(-1));
    length += parts.at(-1).length;
    if (length > LINE_LIMIT) throw unusable();
  }
}
