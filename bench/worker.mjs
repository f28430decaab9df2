// A Worker that costs next to nothing: it answers invoke/v1 with the path that was called, whole or
// as a stream, and what a chat of OpenAI's API asks with a chat's answer. It takes traces, too.

const encoder = new TextEncoder();
const usage = { tokens: 7, computeMs: 1, toolCalls: 0 };
const chat = {
  id: "chatcmpl-bench",
  object: "chat.completion",
  created: 0,
  model: "bench",
  choices: [
    { index: 0, message: { role: "assistant", content: "Hello there." }, finish_reason: "stop" },
  ],
  usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
};

/** Each event when it is asked for, so that the first one waits for none of the others. */
function streamed(meta, text) {
  const events = [["meta", meta], ["delta", { text }], ["usage", usage], ["done", {}]];
  const body = new ReadableStream({
    pull(controller) {
      const [name, data] = events.shift();
      controller.enqueue(encoder.encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`));
      if (events.length === 0) controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

export default {
  async fetch(request) {
    const { pathname: text } = new URL(request.url);
    if (text === "/v1/traces") return new Response();
    const { traceId, sessionId } = await request.json();
    if (text.endsWith("/chat/completions")) return Response.json(chat);
    const meta = { protocol: "invoke/v1", traceId, sessionId: sessionId ?? "bench" };
    if (request.headers.get("Accept") === "text/event-stream") return streamed(meta, text);
    return Response.json({ ...meta, output: { text }, usage });
  },
};
