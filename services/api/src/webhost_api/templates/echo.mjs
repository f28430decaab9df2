// Echoes the last message, and counts the turns of the conversation.
//
// An agent is a module whose default export has `invoke(request, context)`. It may return a string,
// or, as here, an async iterable of text: each piece is sent to the caller as soon as it is given.

export default {
  async invoke(request, context) {
    const { messages } = request.input;
    const said = messages.findLast((message) => message.role === "user")?.content ?? "";

    // What a session keeps outlives deployments: a new version goes on counting.
    const turn = ((await context.session.get("turns")) ?? 0) + 1;
    await context.session.put("turns", turn);

    return words(turn === 1 ? `You said: ${said}` : `You said: ${said} (turn ${turn})`);
  },
};

async function* words(text) {
  // A word and the white space after it, so that the pieces join to the whole text again.
  yield* text.match(/\s*\S+\s*/g) ?? [];
}
