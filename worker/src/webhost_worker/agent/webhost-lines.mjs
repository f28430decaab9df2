// An answer as lines of JSON, which the front reads:
//
//   ["text", string]               a chunk of the answer
//   ["end", {tokens?, toolCalls?}] the answer is complete, and what the module says it used
//   ["fail", string]               the module failed, and why

const TEXT_LIMIT = 4 * 1024 * 1024;
const MESSAGE_LIMIT = 1_000;
// The front takes no longer line than a mebibyte.
const CHUNK_CHARACTERS = 64 * 1024;

const line = (kind, value) => `${JSON.stringify([kind, value])}\n`;

/** The lines of an answer `{chunks, usage()}`, pulled as they are read. Never throws. */
export async function* linesOf({ chunks, usage }, context) {
  let length = 0;
  try {
    for (;;) {
      const { gone, value: step } = await context.unlessGone(next(chunks));
      if (gone) return;
      if (step.done) break;
      const text = await step.value;
      if (typeof text !== "string")
        throw new TypeError("The agent's stream yielded something that is not text.");
      length += text.length;
      if (length > TEXT_LIMIT) throw new RangeError("The agent's answer is over 4 MiB.");
      for (let start = 0; start < text.length; start += CHUNK_CHARACTERS)
        yield line("text", text.slice(start, start + CHUNK_CHARACTERS));
    }
    const { tokens, toolCalls } = Object(usage());
    yield line("end", { tokens: finite(tokens), toolCalls: finite(toolCalls) });
  } catch (error) {
    yield line("fail", messageOf(error, context.env));
  } finally {
    context.close(chunks);
  }
}

const next = async (chunks) => await chunks.next();

/** JSON has no infinity; the platform's counters end far below. */
const finite = (number) => (number === Infinity ? Number.MAX_SAFE_INTEGER : number);

/** An error's message, without the values of the agent's own variables and secrets. */
export function messageOf(error, env) {
  let text = described(error);
  for (const value of Object.values(env)) {
    if (typeof value === "string" && value.length >= 6) text = text.replaceAll(value, "[redacted]");
  }
  return text.slice(0, MESSAGE_LIMIT);
}

function described(error) {
  try {
    return String(error instanceof Error ? error.message : error) || "The agent failed.";
  } catch {
    return "The agent failed.";
  }
}
