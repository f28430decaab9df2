// An answer's text as it grows: whole characters only, and no more than the gateway takes.

import { runtimeError } from "./webhost-errors.mjs";

const TEXT_LIMIT = 4 * 1024 * 1024;
const FIRST_HALF = /[\ud800-\udbff]$/;

/**
 * Lets no chunk end in the middle of a character, as a model's may: a first half waits for its
 * second. An incomplete character is replaced.
 */
export class WholeCharacters {
  ended = false;
  #half = "";

  add(chunk) {
    const text = this.#half + chunk;
    const end = FIRST_HALF.test(text) ? text.length - 1 : text.length;
    this.#half = text.slice(end);
    return text.slice(0, end).toWellFormed();
  }

  /** What is left when no chunk comes any more. */
  end() {
    this.ended = true;
    return this.#half.toWellFormed();
  }
}

/** Collects the text of an answer; more than the gateway would take is the agent's error. */
export class AnswerText {
  text = "";

  add(chunk) {
    this.text += chunk;
    if (this.text.length > TEXT_LIMIT) throw runtimeError("The agent's answer is over 4 MiB.");
  }
}
