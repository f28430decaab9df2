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

// One module for all: what is said picks the kind of answer.
const INVOKE = `
const kinds = {
  string: () => "whole",
  response: () => ({ output: { text: "shaped" }, usage: { tokens: 7, toolCalls: 2, computeMs: 1 } }),
  array: () => ["a ", "b ", "", "c"],
  set: () => new Set(["x", "y"]),
  stream: () => new ReadableStream({
    start(c) { for (const t of ["r1 ", "r2"]) c.enqueue(t); c.close(); } }),
  async *generator() { yield "g1\\n"; yield "g2\\u2028"; return { usage: { tokens: 11 } }; },
  async *gated({ env }) {
    for (const step of ["1", "2", "3"]) { yield step; await fetch(env.OUTSIDE + "/gate/chunk" + step); }
  },
  async *forever({ env, signal }) {
    signal.addEventListener("abort", () => fetch(env.OUTSIDE + "/aborted"));
    try { yield "first"; await new Promise(() => {}); } finally { await fetch(env.OUTSIDE + "/never"); }
  },
  async *keeping({ env, session }) {
    try { for (;;) { yield "more "; await scheduler.wait(500); } }
    finally {
      const said = await session.put("late", 1).then(() => "kept", (error) => error.code);
      await fetch(env.OUTSIDE + "/session/" + said);
    }
  },
  async *endless({ env }) {
    try { for (;;) { yield "more "; await scheduler.wait(2500); } }
    finally { await fetch(env.OUTSIDE + "/returned"); }
  },
  throws() { throw new Error("no luck with " + "Bearer abc.def and s3cret-value " + "x".repeat(999)); },
  throwsNothing() { throw undefined; },
  async *late() { yield "begun "; throw new TypeError("broke midway"); },
  number: () => 42,
  nothing: () => undefined,
  badShape: () => ({ output: "text" }),
  async *badChunk() { yield "fine "; yield 42; },
  large: () => "x".repeat(4 * 1024 * 1024 + 1),
  async *halves() { yield "a\\ud83d"; yield "\\ude00b"; yield "\\ud83d"; return { usage: { tokens: 5 } }; },
  halfString: () => "lone \\ude00",
  request: (context, request) => JSON.stringify({ ...request, context: Object.keys(context) }),
};
export default {
  async invoke(request, context) {
    return kinds[request.input.messages.at(-1).content](context, request);
  },
};`;

let disk, outside, sessions, agent;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(INVOKE, { outside, sessions, env: { API_KEY: "s3cret-value" } });
});

const kinds = {
  string: ["whole"],
  response: ["shaped"],
  array: ["a ", "b ", "c"],
  set: ["x", "y"],
  stream: ["r1 ", "r2"],
  generator: ["g1\n", "g2\u2028"],
};

for (const [kind, chunks] of Object.entries(kinds)) {
  test(`invoke() may give a ${kind}: the same text as JSON and as events`, async () => {
    const answer = await agent.answer(kind);
    assert.equal(answer.output.text, chunks.join(""));
    const events = await agent.events(kind);
    const deltas = events.filter(({ name }) => name === "delta").map(({ data }) => data.text);
    assert.deepEqual(deltas, chunks);
    const names = events.map(({ name }) => name);
    assert.deepEqual(names, ["meta", ...chunks.map(() => "delta"), "usage", "done"]);
  });
}

test("a JSON answer follows the schema of invoke/v1", async () => {
  const { sessionId, usage, ...answer } = await agent.answer("string");
  assert.deepEqual(answer, {
    protocol: "invoke/v1",
    traceId: "trace-1",
    output: { text: "whole" },
  });
  assert.match(sessionId, /^ses_0[0-9a-f]{33}$/);
  assert.equal(usage.tokens, Math.ceil(("string".length + "whole".length) / 4));
  assert.equal(usage.toolCalls, 0);
  assert.ok(Number.isInteger(usage.computeMs) && usage.computeMs >= 0);
});

test("meta names the call, the events end in LF alone, and nothing may buffer them", async () => {
  const call = callOf("string");
  const response = await agent.invoke("string", { ...call, stream: true });
  assert.equal(response.headers.get("Content-Type"), "text/event-stream");
  assert.equal(response.headers.get("Cache-Control"), "no-cache, no-transform");
  assert.equal(response.headers.get("X-Accel-Buffering"), "no");
  const [meta, delta, usage, done, end] = (await response.text()).split("\n\n");
  const [, sessionId] = /"sessionId":"(ses_[0-9a-f]{34})"/.exec(meta);
  const { traceId, invocationId } = call;
  assert.equal(
    meta,
    `event: meta\ndata: ${JSON.stringify({
      protocol: "invoke/v1",
      traceId,
      invocationId,
      agentId: "agt_1",
      deploymentId: "dep_1",
      sessionId,
    })}`,
  );
  assert.equal(delta, 'event: delta\ndata: {"text":"whole"}');
  assert.match(usage, /^event: usage\ndata: \{"tokens":3,"computeMs":\d+,"toolCalls":0\}$/);
  assert.equal(done, "event: done\ndata: {}");
  assert.equal(end, "");
});

test("the usage a module reports is passed on, its compute time is measured", async () => {
  const { usage } = await agent.answer("response");
  assert.equal(usage.tokens, 7);
  assert.equal(usage.toolCalls, 2);
  const events = await agent.events("generator");
  assert.equal(events.find(({ name }) => name === "usage").data.tokens, 11);
});

test("a character that comes in two halves leaves whole, a lone half is replaced", async () => {
  const events = await agent.events("halves");
  const texts = events.filter(({ name }) => name === "delta").map(({ data }) => data.text);
  assert.deepEqual(texts, ["a", "\u{1f600}b", "\ufffd"]);
  assert.equal(events.find(({ name }) => name === "usage").data.tokens, 5);
  assert.equal(events.at(-1).name, "done");
  assert.equal((await agent.answer("halfString")).output.text, "lone \ufffd");
});

test("a chunk leaves before the next one exists", async () => {
  const response = await agent.invoke("gated", { stream: true });
  const received = [];
  for await (const { name, data } of readEvents(response)) {
    received.push(name === "delta" ? data.text : name);
    // Only what was received lets the module go on: a buffered chunk would end in a time-out.
    if (name === "delta") outside.open(`chunk${data.text}`);
  }
  assert.deepEqual(received, ["meta", "1", "2", "3", "usage", "done"]);
});

test("when the caller goes away a module that waits sees its signal abort", async () => {
  await hangUpAfterFirstDelta("forever");
  await eventually(() => outside.requested.includes("/aborted"), "abort");
});

test("when the caller goes away a module that goes on has its iterator closed", async () => {
  await hangUpAfterFirstDelta("endless");
  await eventually(() => outside.requested.includes("/returned"), "return()");
});

test("when the caller has gone the session takes nothing more", async () => {
  await hangUpAfterFirstDelta("keeping");
  const said = () => outside.requested.find((path) => path.startsWith("/session/"));
  assert.equal(await eventually(said, "the module's end"), "/session/SESSION_EXPIRED");
});

test("what is left of an answer whose time is over is not waited for", async () => {
  const module = `
    import Agent from "./webhost-agent.mjs";
    queueMicrotask(() => {
      Agent.prototype.stream = async function () {
        const { readable, writable } = new IdentityTransformStream();
        const writer = writable.getWriter();
        const dripping = async () => {
          for (;;) {
            await writer.write(new TextEncoder().encode('["text","."]\\n'));
            await scheduler.wait(20);
          }
        };
        this.ctx.waitUntil(dripping().catch(() => fetch(this.env.OUTSIDE + "/refused")));
        return readable;
      };
    });
    export default { invoke() {} };`;
  // While its report is not taken, a call is not over for the runtime.
  const held = { url: `${outside.url}/gate/held` };
  const env = { OUTSIDE: outside.url };
  const dripping = await startAgent(module, { outside: held, sessions, env });
  const events = await dripping.events("x", { timeoutMs: 300 });
  assert.equal(events.at(-1).name, "error");
  await eventually(() => outside.requested.includes("/refused"), "a write is refused");
  await dripping.stop();
});

async function hangUpAfterFirstDelta(kind) {
  const caller = new AbortController();
  const call = callOf(kind);
  const response = await agent.invoke(kind, { ...call, stream: true, signal: caller.signal });
  try {
    for await (const { name } of readEvents(response)) if (name === "delta") caller.abort();
  } catch (error) {
    assert.equal(error.name, "AbortError");
  }
  const { body } = await outside.reportOf(call.invocationId);
  assert.equal(JSON.parse(body).errors, 0);
}

test("what fails before the answer is JSON with its status, streamed or not", async () => {
  for (const kind of ["throws", "throwsNothing", "number", "nothing", "badShape"]) {
    for (const stream of [false, true]) {
      const response = await agent.invoke(kind, { stream });
      assert.equal(response.status, 500, kind);
      const { error } = await response.json();
      assert.equal(error.code, "RUNTIME_ERROR");
      assert.equal(error.retryable, false);
      assert.notEqual(error.message, "");
    }
  }
});

test("an error's message is bounded and carries no secret", async () => {
  const { error } = await (await agent.invoke("throws")).json();
  assert.match(error.message, /^no luck with Bearer \[redacted\] and \[redacted\] xxx/);
  assert.equal(error.message.length, 300);
});

test("what fails midway ends the stream with an error event", async () => {
  for (const [kind, text, message] of [
    ["late", "begun ", "broke midway"],
    ["badChunk", "fine ", "The agent's stream yielded something that is not text."],
  ]) {
    const events = await agent.events(kind);
    assert.deepEqual(
      events.map(({ name }) => name),
      ["meta", "delta", "error"],
    );
    assert.equal(joined(events), text);
    assert.deepEqual(events.at(-1).data, {
      error: { code: "RUNTIME_ERROR", message, retryable: false, details: {} },
    });
    assert.equal((await agent.invoke(kind)).status, 500);
  }
});

test("an answer over 4 MiB is the agent's error", async () => {
  const response = await agent.invoke("large");
  assert.equal(response.status, 500);
  assert.match((await response.json()).error.message, /over 4 MiB/);
});

test("invoke() gets the call and a context, and nothing of the transport", async () => {
  const call = { ...callOf("request"), options: { maxSteps: 3 }, metadata: { client: "cli" } };
  const answer = await agent.answer("request", call);
  assert.deepEqual(JSON.parse(answer.output.text), {
    input: call.input,
    options: { maxSteps: 3 },
    metadata: { client: "cli" },
    traceId: "trace-1",
    sessionId: answer.sessionId,
    invocationId: call.invocationId,
    context: ["env", "session", "traceId", "signal"],
  });
});
