// What comes back from an agent's script: lines of JSON, as one text or as a stream of bytes.
//
//   ["text", string]               a chunk of the answer
//   ["end", {tokens?, toolCalls?}] the answer is complete, and what the module says it used
//   ["fail", string]               the agent failed, and why
//
// The script is the customer's: whatever it sends, only text and two numbers come out of here, each
// line and their sum are bounded, and what is none of the three is the agent's error.

import { agentFailed, runtimeError } from "./webhost-errors.mjs";

const LINE_LIMIT = 1024 * 1024;
// A character of the answer's 4 MiB takes at most six bytes of JSON ("\u001f").
const TOTAL_LIMIT = 26 * 1024 * 1024;

const unusable = () => runtimeError("The agent's script answered with something unusable.");
const tooLarge = () => runtimeError("The agent's answer is over 4 MiB.");

/** The answer in a text that is complete already. */
export function answerOfText(text) {
  if (typeof text !== "string") throw unusable();
  if (text.length > TOTAL_LIMIT) throw tooLarge();
  return new AgentAnswer(text.split("\n")[Symbol.iterator](), () => {});
}

/** The answer in a stream, line by line as it is written. */
export function answerOfStream(stream) {
  if (!(stream instanceof ReadableStream)) throw unusable();
  const reader = stream.getReader();
  return new AgentAnswer(linesOf(reader), () => reader.cancel());
}

class AgentAnswer {
  #lines;
  #cancel;
  #usage = {};

  constructor(lines, cancel) {
    this.#lines = lines;
    this.#cancel = cancel;
  }

  /** The next chunk of text. @throws {PlatformError} 500 RUNTIME_ERROR */
  async next() {
    const { done, value: line } = await this.#lines.next();
    if (done) throw runtimeError("The agent's answer broke off.");
    const [kind, value] = parsed(line);
    if (kind === "text" && typeof value === "string") return { done: false, value };
    if (kind === "fail" && typeof value === "string") throw agentFailed(value);
    if (kind !== "end") throw unusable();
    this.#usage = { tokens: value?.tokens, toolCalls: value?.toolCalls };
    return { done: true };
  }

  /** What the module reported, once the answer has ended. */
  usage() {
    return this.#usage;
  }

  /** Takes no more of it. */
  async cancel() {
    await this.#cancel();
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
