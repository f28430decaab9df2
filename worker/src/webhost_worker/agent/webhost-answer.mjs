// How a turn reaches the caller: one JSON document, or SSE.
//
// Emits, as SSE: `meta` once the module has answered, `delta` per chunk, `usage`, then `done`; or
// `error` in place of what is missing. What fails before `meta` is a JSON error with its status.
// Guarantees: a chunk is written before the next one is requested; when the caller disconnects,
// the turn is abandoned; every turn is reported once, however it ended.

import { encode } from "./webhost-platform.mjs";
import { EVENT_STREAM, SSE_COMMENT, sseEvent } from "./webhost-protocol.mjs";

// A disconnected caller is only noticed when something is written.
const PULSE_MS = 1_000;

const STREAM_HEADERS = {
  "Content-Type": EVENT_STREAM,
  "Cache-Control": "no-cache, no-transform",
  "X-Accel-Buffering": "no",
};

/** Runs the turn and answers it. Never throws. */
export async function answerTurn(turn, request, ctx) {
  const streamed = (request.headers.get("Accept") ?? "").includes(EVENT_STREAM);
  try {
    await turn.start(request.headers);
    if (!streamed) return await answerJson(turn);
  } catch (error) {
    turn.abandon();
    turn.report(turn.usage(), "runtime");
    return turn.failure(error).toResponse();
  }
  const { readable, writable } = new IdentityTransformStream();
  ctx.waitUntil(writeStream(turn, writable.getWriter()));
  return new Response(readable, { headers: STREAM_HEADERS });
}

async function answerJson(turn) {
  let step;
  do step = await turn.next();
  while (!step.done);
  await turn.save();
  const usage = turn.usage();
  turn.report(usage);
  return Response.json(turn.document(usage));
}

async function writeStream(turn, writer) {
  const write = async (text) => {
    await writer.write(encode(text)).catch(() => turn.abandon());
  };
  writer.closed.catch(() => turn.abandon());
  const pulse = setInterval(() => write(SSE_COMMENT), PULSE_MS);
  let errorClass;
  try {
    await write(sseEvent("meta", turn.meta()));
    for (let step = await turn.next(); !step.done; step = await turn.next()) {
      if (step.value !== "") await write(sseEvent("delta", { text: step.value }));
    }
    if (!turn.abandoned) {
      await turn.save();
      await write(sseEvent("usage", turn.usage()) + sseEvent("done", {}));
    }
  } catch (error) {
    turn.abandon();
    errorClass = "runtime";
    await write(sseEvent("error", turn.failure(error).envelope()));
  }
  clearInterval(pulse);
  turn.report(turn.usage(), errorClass);
  await writer.close().catch(() => {});
}
