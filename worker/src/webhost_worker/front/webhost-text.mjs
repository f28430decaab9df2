// An answer's text as it grows: whole characters only, and no more than the gateway takes.

import { runtimeError } from "./webhost-errors.mjs";

const TEXT_LIMIT = 4 * 1024 * 1024;
const FIRST_HALF = /[\ud800-\udbff]$/;

/**
 * Passes the chunks on so that none ends in the middle of a character, as a model's may: a first
 * half waits for its second. An incomplete character is replaced.
 */
export function wholeCharacters(chunks) {
  let half = "";
  let ended = false;
  return {
    async next() {
      const step = ended ? { done: true } : await chunks.next();
      ended = step.done;
      if (ended && half === "") return { done: true };
      const text = half + (ended ? "" : step.value);
      const end = !ended && FIRST_HALF.test(text) ? text.length - 1 : text.length;
      half = text.slice(end);
      return { done: false, value: text.slice(0, end).toWellFormed() };
    },
  };
}

/** Collects the text of an answer; more than the gateway would take is the agent's error. */
export class AnswerText {
  text = "";

  add(chunk) {
    this.text += chunk;
    if (this.text.length > TEXT_LIMIT) throw runtimeError("The agent's answer is over 4 MiB.");
  }
}
