import assert from "node:assert/strict";
import { before, test } from "node:test";

import {
  callOf,
  eventually,
  joined,
  Outside,
  readEvents,
  startAgent,
  startSessions,
} from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

const PLAIN = `
const sse = (text, init) =>
  new Response(text, { headers: { "Content-Type": "text/event-stream; charset=utf-8" }, ...init });
const event = (name, data, end = "\\n") => "event: " + name + end + "data: " + JSON.stringify(data) + end + end;
const kinds = {
  json: () => Response.json({ protocol: "invoke/v1", output: { text: "plain" },
    sessionId: "mine", usage: { tokens: 5, toolCalls: 1 } }),
  request: async (request, env, ctx, body) => Response.json({ output: { text: JSON.stringify({
    path: new URL(request.url).pathname, method: request.method,
    headers: Object.fromEntries(request.headers), env: Object.keys(env), body,
    ctx: Object.keys(ctx) }) } }),
  events: () => sse(": hello\\r\\n\\r\\n" + event("meta", { sessionId: "mine" }, "\\r\\n") +
    event("delta", { text: "a\\u2028 " }, "\\r\\n") + event("delta", { text: "b" }) +
    event("usage", { tokens: 9 }) + event("done", {})),
  cut: () => sse(event("delta", { text: "a" })),
  failing: () => sse(event("delta", { text: "a" }) + event("error", { error: { message: "inner" } })),
  refusing: () => Response.json({ error: { message: "not with s3cret-value" } }, { status: 422 }),
  teapot: () => new Response("<html>", { status: 418 }),
  html: () => new Response("<html>"),
  nothing: () => undefined,
  gated: (request, env) => {
    const { readable, writable } = new IdentityTransformStream();
    const writer = writable.getWriter();
    const write = (text) => writer.write(new TextEncoder().encode(text));
    (async () => {
      for (const text of ["1", "2", "3"]) {
        await write(event("delta", { text }));
        await fetch(env.OUTSIDE + "/gate/plain" + text);
      }
      await write(event("done", {}));
      await writer.close();
    })();
    return sse(readable);
  },
  endless: (request, env, ctx) => sse(new ReadableStream({
    async pull(c) { await scheduler.wait(20); c.enqueue(new TextEncoder().encode(event("delta", { text: "." }))); },
    cancel() { ctx.waitUntil(fetch(env.OUTSIDE + "/cancelled")); },
  })),
};
export default {
  async fetch(request, env, ctx) {
    const body = await request.json();
    return kinds[body.input.messages[0].content](request, env, ctx, body);
  },
};`;

let disk, outside, sessions, agent;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(PLAIN, { outside, sessions, env: { API_KEY: "s3cret-value" } });
});

test("its JSON answer is normalized: the session is the platform's, its usage is kept", async () => {
  const answer = await agent.answer("json");
  assert.equal(answer.output.text, "plain");
  assert.match(answer.sessionId, /^ses_/);
  assert.equal(answer.usage.tokens, 5);
  assert.equal(answer.usage.toolCalls, 1);
  assert.equal(joined(await agent.events("json")), "plain");
});

test("its SSE answer is normalized, with either line end", async () => {
  const events = await agent.events("events");
  assert.deepEqual(
    events.map(({ name }) => name),
    ["meta", "delta", "delta", "usage", "done"],
  );
  assert.match(events[0].data.sessionId, /^ses_/);
  assert.equal(joined(events), "a\u2028 b");
  assert.equal(events[3].data.tokens, 9);
  assert.equal((await agent.answer("events")).output.text, "a\u2028 b");
});

test("it sees its own path, the call as invoke/v1, and only the user's env", async () => {
  const call = { ...callOf("request"), options: { maxSteps: 1 }, metadata: {} };
  const answer = await agent.answer("request", call);
  const seen = JSON.parse(answer.output.text);
  assert.equal(seen.path, "/talk");
  assert.equal(seen.method, "POST");
  const { timeoutMs, ...said } = call;
  assert.deepEqual(seen.body, { ...said, sessionId: answer.sessionId });
  assert.deepEqual(seen.env.sort(), ["API_KEY", "OUTSIDE"]);
  assert.deepEqual(Object.keys(seen.headers).sort(), ["accept", "content-type"]);
  assert.deepEqual(seen.ctx, ["waitUntil", "passThroughOnException", "props"]);
});

test("its stream is passed on chunk by chunk", async () => {
  const response = await agent.invoke("gated", { stream: true });
  const received = [];
  for await (const { name, data } of readEvents(response)) {
    received.push(name === "delta" ? data.text : name);
    if (name === "delta") outside.open(`plain${data.text}`);
  }
  assert.deepEqual(received, ["meta", "1", "2", "3", "usage", "done"]);
});

test("when the caller goes away its stream is cancelled", async () => {
  const caller = new AbortController();
  const response = await agent.invoke("endless", { stream: true, signal: caller.signal });
  await assert.rejects(
    async () => {
      for await (const { name } of readEvents(response)) if (name === "delta") caller.abort();
    },
    { name: "AbortError" },
  );
  await eventually(() => outside.requested.includes("/cancelled"), "cancel");
});

test("its failures are the agent's, and carry no secret", async () => {
  const failures = {
    refusing: "not with [redacted]",
    teapot: "The agent answered with status 418.",
    html: "The agent's answer is not an invoke/v1 response.",
    nothing: "fetch() gave no Response.",
  };
  for (const [kind, message] of Object.entries(failures)) {
    const response = await agent.invoke(kind, { stream: true });
    assert.equal(response.status, 500, kind);
    const { error } = await response.json();
    assert.deepEqual(
      { code: error.code, message: error.message },
      { code: "RUNTIME_ERROR", message },
    );
  }
  for (const [kind, message] of [
    ["failing", "inner"],
    ["cut", "The agent's stream ended without done."],
  ]) {
    const events = await agent.events(kind);
    assert.deepEqual(
      events.map(({ name }) => name),
      ["meta", "delta", "error"],
    );
    assert.equal(events.at(-1).data.error.message, message);
  }
});
