// The schemas of invoke/v1 on the wire: request body, usage, SSE frames.

import { invalidRequest } from "./webhost-errors.mjs";

export const PROTOCOL = "invoke/v1";
export const EVENT_STREAM = "text/event-stream";

const COUNTER_LIMIT = 1_000_000_000;
const CHARACTERS_PER_TOKEN = 4;

/** A signed body as an object. @throws {PlatformError} 400 INVALID_REQUEST */
export function parseBody(bytes) {
  let body = null;
  try {
    body = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // As any other body that is no object.
  }
  if (typeof body !== "object" || body === null) throw invalidRequest("The body is not an object.");
  return body;
}

/**
 * The call in a body that the gateway signed.
 * @returns {{invocationId: string, traceId: string, admittedAtMs: number, sessionId?: string,
 *   input: {messages: {role: string, content: string}[]}, options: object, metadata: object,
 *   timeoutMs: number, streamed: boolean, traceparent?: string}}
 * @throws {PlatformError} 400 INVALID_REQUEST
 */
export function parseCall(body, { headers }) {
  const { invocationId, traceId, admittedAtMs, sessionId, input, timeoutMs } = body;
  const valid =
    typeof invocationId === "string" &&
    typeof traceId === "string" &&
    Number.isSafeInteger(admittedAtMs) &&
    Number.isSafeInteger(timeoutMs) &&
    ["string", "undefined"].includes(typeof (sessionId ?? undefined)) &&
    Array.isArray(input?.messages) &&
    input.messages.every((m) => typeof m?.role === "string" && typeof m.content === "string");
  if (!valid) throw invalidRequest("The body is not an invoke/v1 request.");
  return {
    invocationId,
    traceId,
    admittedAtMs,
    sessionId: sessionId ?? undefined,
    input: { messages: input.messages.map(({ role, content }) => ({ role, content })) },
    options: body.options ?? {},
    metadata: body.metadata ?? {},
    timeoutMs,
    streamed: (headers.get("Accept") ?? "").includes(EVENT_STREAM),
    traceparent: headers.get("traceparent") ?? undefined,
  };
}

/** The counters of a call: what the module reported where that is usable, else an estimate. */
export function usageOf(reported, { charactersIn, charactersOut, computeMs }) {
  const estimate = Math.ceil((charactersIn + charactersOut) / CHARACTERS_PER_TOKEN);
  return {
    tokens: counter(reported?.tokens) ?? counter(estimate),
    computeMs: counter(computeMs),
    toolCalls: counter(reported?.toolCalls) ?? 0,
  };
}

/** An integer from 0 to 10^9, or undefined for what is not a number of anything. */
function counter(value) {
  if (typeof value !== "number" || !(value >= 0)) return undefined;
  return Math.min(Math.round(value), COUNTER_LIMIT);
}

export function charactersOf(messages) {
  return messages.reduce((sum, message) => sum + message.content.length, 0);
}

/** One server-sent event. JSON keeps every line break inside the data escaped. */
export function sseEvent(name, data) {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

export const SSE_COMMENT = ":\n\n";
