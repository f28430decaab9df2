// Counts down, one piece at a time, with a pause before each: every piece reaches the caller when
// it is given, not when the answer is complete.

const PAUSE_MS = 150;

export default {
  async invoke(request, context) {
    // The same key as the template's: the session goes on across versions.
    const turn = ((await context.session.get("turns")) ?? 0) + 1;
    await context.session.put("turns", turn);
    return countdown(turn);
  },
};

async function* countdown(turn) {
  yield `Turn ${turn}:`;
  for (const piece of [" three", " two", " one", " liftoff"]) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    yield piece;
  }
}
