import assert from "node:assert/strict";
import { before, test } from "node:test";

import {
  callOf,
  invokeKey,
  Outside,
  platformKey,
  retiringInvokeKey,
  startAgent,
  startSessions,
  strangerKey,
} from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

const MODULE = `export default { async invoke() { return "ran"; } };`;

const UNSETTLED = `
import Agent from "./webhost-agent.mjs";
queueMicrotask(() => { Agent.prototype.isCallable = () => scheduler.wait(60_000); });
${MODULE}`;

let disk, outside, sessions, agent, unsettled;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(MODULE, { outside, sessions });
  // It takes as long as a probe may: the other tests run meanwhile.
  const silent = await startAgent(UNSETTLED, { outside, sessions });
  unsettled = probe(silent, platformKey.header("dep_1", "{}"), AbortSignal.timeout(20_000));
  unsettled.catch(() => {});
});

const body = JSON.stringify(callOf("hi"));
const minuteAgo = () => Date.now() - 61_000;

const refused = {
  "no signature": {},
  "not a signature": { "X-Webhost-Invoke-Signature": "v1=00" },
  "older than a minute": {
    "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", body, minuteAgo()),
  },
  "more than a minute ahead": {
    "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", body, Date.now() + 65_000),
  },
  "captured at another deployment": {
    "X-Webhost-Invoke-Signature": invokeKey.header("dep_2", body),
  },
  "made over another body": {
    "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", `${body} `),
  },
  "by an unknown key": { "X-Webhost-Invoke-Signature": strangerKey.header("dep_1", body) },
  "by the platform's key": { "X-Webhost-Invoke-Signature": platformKey.header("dep_1", body) },
  "in the other header": { "X-Webhost-Platform-Signature": invokeKey.header("dep_1", body) },
};

for (const [what, headers] of Object.entries(refused)) {
  test(`a call whose signature is ${what} gets 401, always the same`, async () => {
    const response = await agent.post("/invoke", body, headers);
    assert.equal(response.status, 401);
    assert.deepEqual(await response.json(), {
      error: {
        code: "UNAUTHENTICATED",
        message: "A valid signature is required.",
        retryable: false,
        details: {},
      },
    });
  });
}

test("a signature under the known key's id but with another key's bytes gets 401", async () => {
  const forged = strangerKey.header("dep_1", body).replace(strangerKey.kid, invokeKey.kid);
  const response = await agent.post("/invoke", body, { "X-Webhost-Invoke-Signature": forged });
  assert.equal(response.status, 401);
});

test("a signed call is answered on the route's path and on a host of its own", async () => {
  const headers = { "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", body) };
  for (const path of ["/dep/dep_1/invoke", "/invoke"]) {
    const response = await fetch(agent.url + path, { method: "POST", body, headers });
    assert.equal(response.status, 200);
    assert.equal((await response.json()).output.text, "ran");
  }
});

test("a signed body that is not an invoke/v1 request gets 400", async () => {
  for (const bad of ["not json", "null", "{}", JSON.stringify({ ...callOf("x"), input: {} })]) {
    const headers = { "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", bad) };
    const response = await agent.post("/invoke", bad, headers);
    assert.equal(response.status, 400);
    assert.equal((await response.json()).error.code, "INVALID_REQUEST");
  }
});

test("while keys rotate either one's signature is good", async () => {
  for (const key of [invokeKey, retiringInvokeKey]) {
    const headers = { "X-Webhost-Invoke-Signature": key.header("dep_1", body) };
    assert.equal((await agent.post("/invoke", body, headers)).status, 200);
  }
});

test("a body over 2 MiB is refused like any that is not signed", async () => {
  const large = "x".repeat(2 * 1024 * 1024 + 1);
  const headers = { "X-Webhost-Invoke-Signature": invokeKey.header("dep_1", large) };
  const response = await agent.post("/invoke", large, headers);
  assert.equal(response.status, 401);
  assert.equal((await response.json()).error.code, "UNAUTHENTICATED");
});

test("other paths are 404 and other methods 405, as JSON", async () => {
  const others = ["/", "/invoke/", "/dep/dep_2/invoke", "/dep/dep_1/talk", "/__webhost/other"];
  for (const path of others) {
    const response = await fetch(agent.url + path, { method: "POST", body });
    assert.equal(response.status, 404, path);
    assert.equal((await response.json()).error.code, "NOT_FOUND");
  }
  const response = await fetch(`${agent.url}/dep/dep_1/invoke`);
  assert.equal(response.status, 405);
  assert.equal(response.headers.get("Allow"), "POST");
  assert.equal((await response.json()).error.code, "METHOD_NOT_ALLOWED");
});

const probe = (probed, header, signal) =>
  probed.post("/__webhost/probe", "{}", { "X-Webhost-Platform-Signature": header }, signal);

test("the probe names the deployment, runs nothing of the customer's and reports nothing", async () => {
  const counting = await startAgent(
    `export default { async invoke(_, { env }) { await fetch(env.OUTSIDE + "/ran"); return ""; } };`,
    { outside, sessions, deploymentId: "dep_probed" },
  );
  const response = await probe(counting, platformKey.header("dep_probed", "{}"));
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { protocol: "invoke/v1", deploymentId: "dep_probed" });
  // The call after it is the first thing that is seen of this deployment outside.
  const call = callOf("x");
  await counting.answer("x", call);
  await outside.reportOf(call.invocationId);
  assert.equal(outside.requested.filter((path) => path === "/ran").length, 1);
  const its = outside.reports.filter((report) => report.body.includes("dep_probed"));
  assert.equal(its.length, 1);
});

test("a probe that the platform did not sign for this deployment gets 401", async () => {
  const headers = [
    invokeKey.header("dep_1", "{}"),
    platformKey.header("dep_2", "{}"),
    platformKey.header("dep_1", "{ }"),
    platformKey.header("dep_1", "{}", minuteAgo()),
  ];
  for (const header of headers) assert.equal((await probe(agent, header)).status, 401);
});

test("the probe of a module that cannot be called says so", async () => {
  const broken = await startAgent(`export default {};`, { outside, sessions });
  const response = await probe(broken, platformKey.header("dep_1", "{}"));
  assert.equal(response.status, 500);
  const { error } = await response.json();
  assert.equal(error.code, "RUNTIME_ERROR");
  assert.match(error.message, /neither invoke\(\) nor fetch\(\)/);
});

test("the probe of a module that does not answer it ends", async () => {
  const response = await unsettled;
  assert.equal(response.status, 500);
  const { error } = await response.json();
  assert.equal(error.message, "The agent did not answer in time.");
});

test("a module that throws while it is evaluated never serves a call", async () => {
  const starting = startAgent(`throw new Error("broken at start"); export default {};`, {
    outside,
    sessions,
  });
  await assert.rejects(starting, /broken at start/);
});
