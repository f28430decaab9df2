import assert from "node:assert/strict";
import { before, test } from "node:test";

import { callOf, eventually, Outside, startAgent, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

// What is said is a small program over the session: its result, or its error, is the answer.
const KEEPER = `
export default {
  async invoke(request, { session, env }) {
    const run = new Map(Object.entries({
      id: () => session.id,
      get: (key) => session.get(key),
      put: (key, value) => session.put(key, value),
      putCircle: (key) => {
        const circle = {};
        return session.put(key, (circle.self = circle));
      },
      putLarge: (key, length) => session.put(key, "x".repeat(length)),
      putMany: async (from, to) => {
        for (let n = from; n < to; n++) await session.put("many" + n, n);
      },
      delete: (key) => session.delete(key),
      list: (options) => session.list(options),
      history: () => session.history(),
      wait: async (gate) => {
        await fetch(env.OUTSIDE + "/gate/" + gate);
        return await session.put("late", 1);
      },
    }));
    const [name, ...values] = JSON.parse(request.input.messages.at(-1).content);
    try {
      return JSON.stringify({ value: await run.get(name)(...values) });
    } catch (error) {
      if (name === "wait") throw error;
      return JSON.stringify({ code: error.code, message: error.message });
    }
  },
};`;

let disk, outside, sessions, agent;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(KEEPER, { outside, sessions });
});

/** Runs one operation in a session (a new one without `sessionId`). */
async function run(its, sessionId, ...operation) {
  const answer = await its.answer(JSON.stringify(operation), { sessionId });
  return { sessionId: answer.sessionId, ...JSON.parse(answer.output.text) };
}

async function statusOf(its, sessionId) {
  const response = await its.invoke(`["id"]`, { sessionId });
  const { error } = await response.json();
  return [response.status, error?.code, error?.retryable];
}

const EXPIRED = [410, "SESSION_EXPIRED", false];

test("a session keeps JSON values, lists and forgets them", async () => {
  const { sessionId, value } = await run(agent, undefined, "id");
  assert.equal(value, sessionId);
  const value1 = { list: [1, null, "ä\u2028"], flag: false };
  await run(agent, sessionId, "put", "a/1", value1);
  await run(agent, sessionId, "put", "a/2", null);
  await run(agent, sessionId, "put", "b%_", 0);
  assert.deepEqual((await run(agent, sessionId, "get", "a/1")).value, value1);
  assert.equal((await run(agent, sessionId, "get", "a/2")).value, null);
  assert.equal("value" in (await run(agent, sessionId, "get", "none")), false);
  assert.deepEqual((await run(agent, sessionId, "list")).value, ["a/1", "a/2", "b%_"]);
  assert.deepEqual((await run(agent, sessionId, "list", { prefix: "a/" })).value, ["a/1", "a/2"]);
  assert.deepEqual((await run(agent, sessionId, "list", { prefix: "%" })).value, []);
  assert.equal((await run(agent, sessionId, "delete", "a/1")).value, true);
  assert.equal((await run(agent, sessionId, "delete", "a/1")).value, false);
});

test("each turn sees the turns before it, streamed ones too, and not itself", async () => {
  const first = await run(agent, undefined, "history");
  assert.deepEqual(first.value, []);
  await agent.events(`["id"]`, { sessionId: first.sessionId });
  const { value } = await run(agent, first.sessionId, "history");
  assert.deepEqual(
    value.map(({ role, content }) => [role, content]),
    [
      ["user", `["history"]`],
      ["assistant", `{"value":[]}`],
      ["user", `["id"]`],
      ["assistant", JSON.stringify({ value: first.sessionId })],
    ],
  );
  assert.ok(value.every(({ atMs }) => Math.abs(Date.now() - atMs) < 60_000));
});

test("the history is bounded: the newest 200 messages, long ones cut", async () => {
  const messages = Array.from({ length: 250 }, (_, n) => ({ role: "user", content: `m${n}` }));
  const asking = { role: "user", content: `["id"]` };
  const body = { input: { messages: [...messages, asking] } };
  const { sessionId } = await agent.answer("", body);
  const { value } = await run(agent, sessionId, "history");
  assert.equal(value.length, 200);
  assert.equal(value[0].content, "m52");
  assert.equal(value.at(-2).content, `["id"]`);
  const long = { role: "user", content: "x".repeat(200 * 1024) };
  await agent.answer("", { sessionId, input: { messages: [long, asking] } });
  const after = (await run(agent, sessionId, "history")).value;
  assert.equal(after.at(-3).content.length, 128 * 1024);
});

test("what is too large is refused with an error the module can read, and nothing is kept", async () => {
  const { sessionId } = await run(agent, undefined, "id");
  const large = await run(agent, sessionId, "putLarge", "large", 128 * 1024 - 1);
  assert.equal(large.code, "SESSION_LIMIT");
  assert.equal((await run(agent, sessionId, "putLarge", "fits", 128 * 1024 - 2)).code, undefined);
  for (const key of ["", "k".repeat(513), 5]) {
    assert.equal((await run(agent, sessionId, "put", key, 1)).code, "INVALID_REQUEST");
  }
  assert.equal((await run(agent, sessionId, "put", "no value")).code, "INVALID_REQUEST");
  assert.match((await run(agent, sessionId, "putCircle", "c")).message, /circular/);
  assert.deepEqual((await run(agent, sessionId, "list")).value, ["fits"]);
  assert.equal((await run(agent, sessionId, "putMany", 0, 999)).code, undefined);
  const full = await run(agent, sessionId, "putMany", 999, 1_000);
  assert.match(full.message, /at most 1,000 keys/);
  assert.equal((await run(agent, sessionId, "list")).value.length, 1_000);
});

test("a session that is not one of the agent's is expired, before customer code runs", async () => {
  const { sessionId } = await run(agent, undefined, "id");
  const other = sessionId.slice(0, -1) + (sessionId.endsWith("0") ? "1" : "0");
  for (const unknown of ["", "nope", other, `ses_ff${"0".repeat(32)}`, `${sessionId}0`]) {
    assert.deepEqual(await statusOf(agent, unknown), EXPIRED, unknown);
  }
  const call = callOf(`["id"]`);
  const response = await agent.invoke(`["id"]`, { ...call, sessionId: "nope", stream: true });
  assert.equal(response.status, 410);
  const report = JSON.parse((await outside.reportOf(call.invocationId)).body);
  assert.equal(report.errors, 1);
  assert.equal(report.llmTokens, 0);
});

test("another agent's session with the same id stays apart", async () => {
  const other = await startAgent(KEEPER, { outside, sessions, agentId: "agt_2" });
  const { sessionId } = await run(agent, undefined, "put", "mine", 1);
  assert.deepEqual(await statusOf(other, sessionId), EXPIRED);
  assert.equal((await run(agent, sessionId, "get", "mine")).value, 1);
});

test("the agent's code cannot name another agent to the store", async () => {
  const forging = await startAgent(
    `export default { async invoke(_, { session, env }) {
       return JSON.stringify([Object.keys(env), Object.keys(session)]); } };`,
    { outside, sessions, agentId: "agt_2" },
  );
  const [env, session] = JSON.parse((await forging.answer("x")).output.text);
  assert.deepEqual(env, ["OUTSIDE"]);
  assert.deepEqual(session, ["id", "get", "put", "delete", "list", "history"]);
});

test("props in the configuration of one process say the same as the header between two", async () => {
  const near = temporaryFolder();
  const both = await startAgent(KEEPER, { outside, disk: near });
  const { sessionId } = await run(both, undefined, "put", "k", "v");
  assert.equal((await run(both, sessionId, "get", "k")).value, "v");
});

test("without its session store a call is refused for now, before customer code runs", async () => {
  const nowhere = { socket: `${disk}/nobody.sock` };
  const alone = await startAgent(KEEPER, { outside, sessions: nowhere });
  const response = await alone.invoke(`["id"]`);
  await alone.stop();
  assert.equal(response.status, 503);
  const { error } = await response.json();
  assert.deepEqual([error.code, error.retryable], ["UNAVAILABLE", true]);
});

test("a session outlives the deployment, and the session Worker's own restart", async () => {
  const own = temporaryFolder();
  let store = await startSessions({ disk: own });
  let version = await startAgent(KEEPER, { outside, sessions: store });
  const { sessionId } = await run(version, undefined, "put", "kept", "yes");
  await version.stop();
  version = await startAgent(`// version 2\n${KEEPER}`, {
    outside,
    sessions: store,
    deploymentId: "dep_2",
  });
  assert.equal((await run(version, sessionId, "get", "kept")).value, "yes");
  await version.stop();
  await store.stop();
  store = await startSessions({ disk: own });
  version = await startAgent(KEEPER, { outside, sessions: store, deploymentId: "dep_3" });
  assert.equal((await run(version, sessionId, "get", "kept")).value, "yes");
  await version.stop();
  await store.stop();
});

test("a session that idled too long is expired, then removed", async () => {
  const own = temporaryFolder();
  let store = await startSessions({ disk: own, idleDays: 1.5 / 86_400 });
  let idle = await startAgent(KEEPER, { outside, sessions: store });
  const { sessionId } = await run(idle, undefined, "id");
  assert.equal((await run(idle, sessionId, "id")).value, sessionId);
  const idledAtMs = Date.now() + 1_600;
  await eventually(() => Date.now() > idledAtMs, "time passes");
  assert.deepEqual(await statusOf(idle, sessionId), EXPIRED);
  // Were it only hidden, and not swept, a store with more patience would show it again.
  await eventually(() => Date.now() > idledAtMs + 1_500, "time passes");
  await idle.stop();
  await store.stop();
  store = await startSessions({ disk: own, idleDays: 30 });
  idle = await startAgent(KEEPER, { outside, sessions: store });
  assert.deepEqual(await statusOf(idle, sessionId), EXPIRED);
  await idle.stop();
  await store.stop();
});

test("a purge leaves nothing, ends what is running, and lets no session be made again", async () => {
  const doomed = await startAgent(KEEPER, { outside, sessions, agentId: "agt_doomed" });
  const { sessionId } = await run(agent, undefined, "put", "stays", 1);
  const { sessionId: its } = await run(doomed, undefined, "put", "goes", 1);
  const running = doomed.invoke(`["wait", "purged"]`, { sessionId: its });
  await eventually(() => outside.requested.includes("/gate/purged"), "the call runs");
  for (let time = 0; time < 2; time++) {
    const response = await sessions.ask("purge", { agentId: "agt_doomed" });
    assert.equal(response.status, 200);
    assert.deepEqual(await response.json(), { purged: true });
  }
  outside.open("purged");
  const response = await running;
  assert.equal(response.status, 410);
  assert.equal((await response.json()).error.code, "SESSION_EXPIRED");
  assert.deepEqual(await statusOf(doomed, its), EXPIRED);
  for (let time = 0; time < 20; time++)
    assert.deepEqual(await statusOf(doomed, undefined), EXPIRED);
  assert.equal((await run(agent, sessionId, "get", "stays")).value, 1);
  await doomed.stop();
});

test("an answer as long as an answer may be does not fail its turn's history", async () => {
  const module = `export default { invoke: () => "\u0001".repeat(4 * 1024 * 1024) };`;
  const long = await startAgent(module, { outside, sessions });
  const { sessionId } = await long.answer("go on");
  const { value } = await run(agent, sessionId, "history");
  assert.equal(value.at(-1).content.length, 128 * 1024);
  await long.stop();
});
