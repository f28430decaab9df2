// The session store as fronts, the deployer and the public reach it, and its bounds.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { invokeKey, platformKey, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

let sessions;

before(async () => {
  sessions = await startSessions({ disk: temporaryFolder() });
});

test("the front of the installation names the agent in a header, as no other front can", async () => {
  const named = (agentId) => ({ "X-Webhost-Agent": agentId });
  const opened = await sessions.as("any", "open", {}, named("agt_one"));
  const { sessionId } = await opened.json();
  const put = { sessionId, key: "k", value: 1 };
  assert.equal((await sessions.as("any", "put", put, named("agt_one"))).status, 200);
  assert.equal((await sessions.as("any", "get", put, named("agt_two"))).status, 410);
  assert.equal((await sessions.as("any", "open", {})).status, 400);
  // The front of one agent is at that agent's sessions, whichever it names.
  const got = await sessions.as("one", "get", put, named("agt_two"));
  assert.deepEqual(await got.json(), { value: 1 });
  const itsOwn = await (await sessions.as("one", "open", {}, named("agt_two"))).json();
  assert.equal((await sessions.as("any", "open", itsOwn, named("agt_two"))).status, 410);
});

test("a body over its limit is refused before it is kept whole", async () => {
  const { sessionId } = await (await sessions.as("one", "open", {})).json();
  const padded = (bytes) => ({ sessionId, key: "k", value: 1, padding: "x".repeat(bytes) });
  const refused = await sessions.as("one", "put", padded(256 * 1024));
  assert.equal(refused.status, 413);
  assert.equal((await refused.json()).error.code, "SESSION_LIMIT");
  assert.equal((await sessions.as("one", "put", padded(250 * 1024))).status, 200);
  const said = (bytes) => ({ sessionId, messages: [{ role: "user", content: "x".repeat(bytes) }] });
  assert.equal((await sessions.as("one", "append", said(8 * 1024 * 1024))).status, 413);
  assert.equal((await sessions.as("one", "append", said(7 * 1024 * 1024))).status, 200);
});

/** A new session in the shard of `like`. */
async function another(store, like) {
  for (;;) {
    const { sessionId } = await (await store.as("one", "open", {})).json();
    if (like === undefined || sessionId.startsWith(like.slice(0, 6))) return sessionId;
  }
}

test("a shard full of sessions removes the one that was unused for longest", async () => {
  const env = { SESSIONS_PER_SHARD: "3" };
  const store = await startSessions({ disk: temporaryFolder(), env });
  const is = async (sessionId) => (await store.as("one", "history", { sessionId })).status;
  const first = await another(store);
  const second = await another(store, first);
  const third = await another(store, first);
  assert.equal((await store.as("one", "put", { sessionId: second, key: "k", value: 1 })).status, 200);
  await store.as("one", "open", { sessionId: first });
  const fourth = await another(store, first);
  assert.deepEqual(await Promise.all([first, second, third, fourth].map(is)), [200, 410, 200, 200]);
  await store.stop();
});

test("a shard full of bytes makes room, never at the cost of the session that writes", async () => {
  const megabytes = 8;
  const env = { SESSION_BYTES_PER_SHARD: String(megabytes * 1024 * 1024) };
  const disk = temporaryFolder();
  const store = await startSessions({ disk, env });
  const written = [];
  while (written.length < 3 * megabytes) {
    const sessionId = await another(store, written[0]);
    written.push(sessionId);
    for (let n = 0; n < 8; n++) {
      const put = { sessionId, key: `k${n}`, value: "x".repeat(127 * 1024) };
      assert.equal((await store.as("one", "put", put)).status, 200);
    }
    const { keys } = await (await store.as("one", "list", { sessionId })).json();
    assert.equal(keys.length, 8);
  }
  const statuses = [];
  for (const sessionId of written)
    statuses.push((await store.as("one", "list", { sessionId })).status);
  const left = statuses.filter((status) => status === 200).length;
  assert.ok(left >= megabytes / 2 && left <= megabytes, `${left} of ${written.length} are left`);
  assert.ok(statuses.slice(-left).every((status) => status === 200));
  await store.stop();
});

test("a shard full of history makes room as well", async () => {
  const env = { SESSION_BYTES_PER_SHARD: String(1024 * 1024) };
  const store = await startSessions({ disk: temporaryFolder(), env });
  const messages = Array(4).fill({ role: "user", content: "x".repeat(128 * 1024) });
  const written = [];
  while (written.length < 4) {
    const sessionId = await another(store, written[0]);
    written.push(sessionId);
    assert.equal((await store.as("one", "append", { sessionId, messages })).status, 200);
  }
  const statuses = [];
  for (const sessionId of written)
    statuses.push((await store.as("one", "history", { sessionId })).status);
  assert.deepEqual([statuses[0], statuses.at(-1)], [410, 200]);
  await store.stop();
});

test("a session that fills its shard by itself is kept", async () => {
  const env = { SESSION_BYTES_PER_SHARD: String(256 * 1024) };
  const store = await startSessions({ disk: temporaryFolder(), env });
  const sessionId = await another(store);
  const value = "x".repeat(127 * 1024);
  for (let n = 0; n < 8; n++) {
    assert.equal((await store.as("one", "put", { sessionId, key: `k${n}`, value })).status, 200);
  }
  const { keys } = await (await store.as("one", "list", { sessionId })).json();
  assert.equal(keys.length, 8);
  await store.stop();
});

test("the deployer's operations need its signature", async () => {
  const body = { agentId: "agt_1" };
  const text = JSON.stringify(body);
  const minuteAgo = Date.now() - 61_000;
  const headers = [
    "",
    invokeKey.header("sessions", text),
    platformKey.header("dep_1", text),
    platformKey.header("sessions", "{}"),
    platformKey.header("sessions", text, minuteAgo),
  ];
  for (const header of headers) {
    for (const operation of ["purge", "version"]) {
      const response = await sessions.ask(operation, body, header);
      assert.equal(response.status, 401);
      assert.equal((await response.json()).error.code, "UNAUTHENTICATED");
    }
  }
  const version = await sessions.ask("version", {});
  assert.deepEqual(await version.json(), { protocolVersion: 2 });
  assert.equal((await sessions.ask("purge", {})).status, 400);
});

test("the public has no other way to the sessions", async () => {
  const { sessionId } = await (await sessions.as("one", "open", {})).json();
  const body = JSON.stringify({ sessionId });
  const headers = { "x-webhost-agent": "agt_one" };
  for (const path of ["/v1/open", "/v1/history", "/", "/__webhost/sessions/other"]) {
    const response = await fetch(sessions.url + path, { method: "POST", body, headers });
    assert.equal(response.status, 404, path);
  }
  assert.equal((await fetch(`${sessions.url}/__webhost/sessions/purge`)).status, 405);
});
