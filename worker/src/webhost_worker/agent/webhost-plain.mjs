// Calls a plain Worker handler, `fetch(request, env, ctx)`, that speaks invoke/v1 over HTTP: it
// gets the call as a POST and answers JSON or an SSE stream; either becomes `{chunks, usage()}`.

import { wholeAnswer } from "./webhost-invoke.mjs";

const PROTOCOL = "invoke/v1";
const EVENT_STREAM = "text/event-stream";

/** Same contract as `runInvoke`. */
export async function runPlain(customer, call, context, path) {
  const ctx = {
    waitUntil: (promise) => context.waitUntil(promise),
    passThroughOnException() {},
    props: {},
  };
  const request = requestOf(call, path, context.signal);
  const response = await customer.fetch(request, context.env, ctx);
  if (!(response instanceof Response)) throw new TypeError("fetch() gave no Response.");
  if (!response.ok) throw new Error(await failureOf(response));
  const type = response.headers.get("Content-Type") ?? "";
  if (type.startsWith(EVENT_STREAM) && response.body !== null) return streamOf(response.body);
  return await documentOf(response);
}

function requestOf(call, path, signal) {
  const { invocationId, traceId, admittedAtMs, sessionId, input, options, metadata } = call;
  const body = { invocationId, traceId, admittedAtMs, sessionId, input, options, metadata };
  const headers = new Headers({
    "Content-Type": "application/json",
    Accept: call.streamed ? EVENT_STREAM : "application/json",
  });
  if (call.traceparent !== undefined) headers.set("traceparent", call.traceparent);
  return new Request(new URL(path, "https://agent.invalid"), {
    method: "POST",
    headers,
    body: JSON.stringify({ protocol: PROTOCOL, ...body }),
    signal,
  });
}

async function failureOf(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message;
  if (typeof message === "string" && message !== "") return message;
  return `The agent answered with status ${response.status}.`;
}

async function documentOf(response) {
  const body = await response.json().catch(() => null);
  const text = body?.output?.text;
  if (typeof text !== "string")
    throw new TypeError("The agent's answer is not an invoke/v1 response.");
  return wholeAnswer(text, body.usage);
}

function streamOf(body) {
  let usage;
  async function* texts() {
    for await (const { name, data } of events(body)) {
      if (name === "delta") yield data?.text;
      else if (name === "usage") usage = data;
      else if (name === "done") return;
      else if (name === "error") throw new Error(data?.error?.message ?? "The agent failed.");
    }
    throw new TypeError("The agent's stream ended without done.");
  }
  return { chunks: texts(), usage: () => usage };
}

/** The events of an SSE body, each as soon as its blank line has arrived. */
async function* events(body) {
  let name = "";
  let data = [];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data.length > 0) yield { name, data: parsed(data.join("\n")) };
      name = "";
      data = [];
      continue;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new TypeError("The agent's stream has an event that is not JSON.");
  }
}

async function* lines(body) {
  let rest = "";
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    // A CR at the very end may be half of a CRLF: it waits for what follows.
    const complete = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = complete.pop();
    yield* complete;
  }
}
