// A Worker that costs next to nothing: it answers invoke/v1 and does nothing else.

export default {
  async fetch(request) {
    const { traceId, sessionId } = await request.json();
    return Response.json({
      protocol: "invoke/v1",
      traceId,
      sessionId: sessionId ?? "bench",
      output: { text: "You said: hello" },
      usage: { tokens: 7, computeMs: 1, toolCalls: 0 },
    });
  },
};
