// A Worker that costs next to nothing: it answers invoke/v1 with the path that was called.

export default {
  async fetch(request) {
    const { traceId, sessionId } = await request.json();
    return Response.json({
      protocol: "invoke/v1",
      traceId,
      sessionId: sessionId ?? "bench",
      output: { text: new URL(request.url).pathname },
      usage: { tokens: 7, computeMs: 1, toolCalls: 0 },
    });
  },
};
