// How a turn reaches the caller: one JSON document, or SSE.
//
// Emits, as SSE: `meta` once the agent has answered, `delta` per chunk, `usage`, then `done`; or
// `error` in place of what is missing. What fails before `meta` is a JSON error with its status.
// Guarantees: a chunk is written before the next one is requested; when the caller disconnects,
// the turn is abandoned.

import { EVENT_STREAM, SSE_COMMENT, sseEvent } from "./webhost-protocol.mjs";

// Once the answer has begun, a caller that has gone is only noticed when something is written.
const PULSE_MS = 1_000;

const STREAM_HEADERS = {
  "Content-Type": EVENT_STREAM,
  "Cache-Control": "no-cache, no-transform",
  "X-Accel-Buffering": "no",
};

/** Runs the turn and answers it. Never throws. */
export async function answerTurn(turn, request, ctx) {
  request.signal.addEventListener("abort", () => turn.abandon());
  try {
    await turn.start();
    if (!turn.call.streamed) return await answerJson(turn);
  } catch (error) {
    return turn.fail(error).toResponse();
  }
  const { readable, writable } = new IdentityTransformStream();
  ctx.waitUntil(writeStream(turn, writable.getWriter()));
  return new Response(readable, { headers: STREAM_HEADERS });
}

async function answerJson(turn) {
  turn.takeAll();
  return Response.json(turn.document(await turn.finish()));
}

async function writeStream(turn, writer) {
  const encoder = new TextEncoder();
  const write = async (text) => {
    await writer.write(encoder.encode(text)).catch(() => turn.abandon());
  };
  writer.closed.catch(() => turn.abandon());
  const pulse = setInterval(() => write(SSE_COMMENT), PULSE_MS);
  try {
    await write(sseEvent("meta", turn.meta()));
    for (let text = await turn.next(); text !== null; text = await turn.next()) {
      if (text !== "") await write(sseEvent("delta", { text }));
    }
    await write(sseEvent("usage", await turn.finish()) + sseEvent("done", {}));
  } catch (error) {
    await write(sseEvent("error", turn.fail(error).envelope()));
  }
  clearInterval(pulse);
  await writer.close().catch(() => {});
}
