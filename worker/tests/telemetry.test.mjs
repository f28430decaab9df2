import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { before, test } from "node:test";

import { callOf, eventually, Outside, startAgent, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

const MODULE = `
const kinds = {
  text: () => "four words of text",
  reported: () => ({ output: { text: "t" }, usage: { tokens: 12.4, toolCalls: 3, computeMs: 1e9 } }),
  nonsense: () => ({ output: { text: "1234" }, usage: { tokens: -1, toolCalls: "2" } }),
  huge: () => ({ output: { text: "" }, usage: { tokens: 1e300, toolCalls: Infinity } }),
  slow: async (env) => { await fetch(env.OUTSIDE + "/gate/slow"); return "slow"; },
  patient: async (env) => { await fetch(env.OUTSIDE + "/gate/patient"); return "slow"; },
  fails: () => { throw new Error("secret prompt"); },
  async *midway() { yield "12345678"; throw new Error("late"); },
};
export default {
  async invoke({ input }, { env }) { return kinds[input.messages[0].content](env); },
};`;

let disk, outside, sessions, agent;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(MODULE, { outside, sessions });
});

/** The report of one call of this kind, its signature checked. */
async function reportOf(kind, fields = {}) {
  const call = callOf(kind);
  const response = await agent.invoke(kind, { ...call, ...fields });
  await response.text();
  const { headers, body } = await outside.reportOf(call.invocationId);
  const mac = createHmac("sha256", agent.secret).update(body).digest("hex");
  assert.equal(headers["x-telemetry-signature"], `v1=${mac}`);
  assert.equal(headers["x-telemetry-deployment-id"], "dep_1");
  return { call, event: JSON.parse(body), body, headers };
}

test("a call is reported once, signed, with the call's own id and time", async () => {
  const { call, event, body } = await reportOf("text", { admittedAtMs: 1_700_000_000_000 });
  const { computeMs, startedAtMs, ...rest } = event;
  assert.ok(Math.abs(Date.now() - startedAtMs) < 60_000);
  assert.deepEqual(rest, {
    userId: "usr_1",
    agentId: "agt_1",
    deploymentId: "dep_1",
    runtimeProvider: "cloudflare",
    eventId: call.invocationId,
    traceId: "trace-1",
    timestampMs: 1_700_000_000_000,
    requests: 1,
    llmTokens: Math.ceil(("text".length + "four words of text".length) / 4),
    toolCalls: 0,
    errors: 0,
  });
  assert.ok(Number.isInteger(computeMs) && computeMs >= 0 && computeMs < 10_000);
  assert.doesNotMatch(body, /four words/);
});

test("the trace context of a call comes with its report, and none where there is none", async () => {
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  assert.equal((await reportOf("text", { traceparent })).headers.traceparent, traceparent);
  assert.equal((await reportOf("text")).headers.traceparent, undefined);
});

test("what the module reports is used, as integers within their bounds", async () => {
  const reported = (await reportOf("reported")).event;
  assert.equal(reported.llmTokens, 12);
  assert.equal(reported.toolCalls, 3);
  assert.ok(reported.computeMs < 10_000);
  const nonsense = (await reportOf("nonsense")).event;
  assert.equal(nonsense.llmTokens, Math.ceil(("nonsense".length + 4) / 4));
  assert.equal(nonsense.toolCalls, 0);
  const huge = (await reportOf("huge")).event;
  assert.equal(huge.llmTokens, 1e9);
  assert.equal(huge.toolCalls, 1e9);
});

test("compute is the wall time in the Worker", async () => {
  const call = callOf("slow");
  const answering = agent.answer("slow", call);
  await eventually(() => outside.requested.includes("/gate/slow"), "the call waits");
  const waited = Date.now() + 120;
  await eventually(() => Date.now() > waited, "time passes");
  outside.open("slow");
  const { usage } = await answering;
  assert.ok(usage.computeMs >= 100, String(usage.computeMs));
  const event = JSON.parse((await outside.reportOf(call.invocationId)).body);
  assert.equal(event.computeMs, usage.computeMs);
});

test("a failed call is reported as an error, without its message", async () => {
  const { event, body } = await reportOf("fails");
  assert.equal(event.errors, 1);
  assert.equal(event.errorClass, "runtime");
  assert.equal(event.llmTokens, Math.ceil("fails".length / 4));
  assert.doesNotMatch(body, /secret prompt/);
  const midway = (await reportOf("midway", { stream: true })).event;
  assert.equal(midway.errors, 1);
  assert.equal(midway.llmTokens, Math.ceil(("midway".length + 8) / 4));
});

test("a caller that goes away before the answer leaves a report all the same", async () => {
  const call = callOf("patient");
  const caller = new AbortController();
  const answering = agent.invoke("patient", { ...call, signal: caller.signal });
  await eventually(() => outside.requested.includes("/gate/patient"), "the call waits");
  caller.abort();
  await assert.rejects(answering, { name: "AbortError" });
  outside.open("patient");
  const event = JSON.parse((await outside.reportOf(call.invocationId)).body);
  assert.equal(event.errors, 0);
  assert.equal(event.llmTokens, Math.ceil(("patient".length + "slow".length) / 4));
});

const triesOf = (invocationId) =>
  outside.reports.filter(({ body }) => body.includes(invocationId)).map(({ status }) => status);

test("a report is tried three times, the same bytes, while it is refused for now", async () => {
  outside.refuse = [503, 429];
  const call = callOf("text");
  await agent.answer("text", call);
  await eventually(() => triesOf(call.invocationId).length === 3, "three tries");
  assert.deepEqual(triesOf(call.invocationId), [503, 429, 202]);
  const its = outside.reports.filter(({ body }) => body.includes(call.invocationId));
  assert.equal(new Set(its.map(({ body }) => body)).size, 1);
});

test("a report that is refused for good is not repeated", async () => {
  outside.refuse = [403];
  const refused = callOf("text");
  await agent.answer("text", refused);
  await outside.reportOf(refused.invocationId);
  // A later call's two tries take longer than the refused one's second try would have.
  outside.refuse = [503];
  const later = callOf("text");
  await agent.answer("text", later);
  await eventually(() => triesOf(later.invocationId).length === 2, "two tries");
  assert.deepEqual(triesOf(refused.invocationId), [403]);
});

test("a report that was accepted does not come again", () => {
  const accepted = outside.reports.filter(({ status }) => status === 202);
  const ids = accepted.map(({ body }) => JSON.parse(body).eventId);
  assert.equal(new Set(ids).size, ids.length);
});

const ANSWERING = `export default { invoke: async () => "answered" };`;

test("a control plane that is away fails nothing", async () => {
  const nobody = { url: "http://127.0.0.1:1" };
  const alone = await startAgent(ANSWERING, { outside: nobody, sessions });
  assert.equal((await alone.answer("x")).output.text, "answered");
  assert.equal((await alone.events("x")).at(-1).name, "done");
});

test("a control plane that does not answer delays nothing", async () => {
  const held = { url: `${outside.url}/gate/held` };
  const waiting = await startAgent(ANSWERING, { outside: held, sessions });
  assert.equal((await waiting.answer("x")).output.text, "answered");
  const response = await waiting.invoke("x", { stream: true });
  assert.match(await response.text(), /event: done\ndata: \{\}\n\n$/);
  const tries = () => outside.requested.filter((path) => path === "/gate/held/telemetry").length;
  await eventually(() => tries() > 0, "a report");
  // An answer that waited for its report would have come after that report's three tries.
  assert.ok(tries() < 3);
});
