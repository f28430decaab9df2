import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { before, test } from "node:test";

import { callOf, Outside, startAgent, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

let disk, outside, sessions;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
});

async function answerOf(source, options = {}) {
  const agent = await startAgent(source, { outside, sessions, ...options });
  const call = callOf("x");
  const first = JSON.parse((await agent.answer("x", call)).output.text);
  const { headers, body } = await outside.reportOf(call.invocationId);
  const mac = createHmac("sha256", agent.secret).update(body).digest("hex");
  const reported = { signature: headers["x-telemetry-signature"], expected: `v1=${mac}` };
  return { reported, first, second: JSON.parse((await agent.answer("x")).output.text) };
}

test("customer code gets the user's own variables and none of the platform's", async () => {
  const { first } = await answerOf(
    `export default { invoke: async (_, { env }) => JSON.stringify(env) };`,
    { env: { MODEL_KEY: "k", WEBHOST_ANYTHING: "reserved" } },
  );
  assert.deepEqual(first, { MODEL_KEY: "k", OUTSIDE: outside.url });
});

test("an imported env is empty, and process.env has nothing", async () => {
  const { first } = await answerOf(
    `import { env } from "cloudflare:workers";
     export default { invoke: async () => JSON.stringify(
       [Object.keys(env ?? {}), Object.keys(globalThis.process?.env ?? {})]) };`,
  );
  assert.deepEqual(first, [[], []]);
});

// Patches what one isolate lets it patch, and says on the next call what came by.
const THIEF = `
const seen = [];
const note = (value) => {
  if (value instanceof CryptoKey && value.type === "secret") seen.push("key");
  if (typeof value === "string" && value.length === 43) seen.push("text " + value);
  if (value instanceof Uint8Array && value.length === 32) seen.push("bytes");
  if (value !== null && typeof value === "object" && Object.hasOwn(value, "TELEMETRY_SECRET")) seen.push("env");
};
const spy = (owner, name) => {
  const original = owner[name];
  try {
    owner[name] = function (...values) {
      note(this); values.forEach(note);
      return new.target ? Reflect.construct(original, values) : Reflect.apply(original, this, values);
    };
  } catch {} // what cannot be patched cannot spy
};
for (const name of ["keys", "entries", "values", "fromEntries", "assign"]) spy(Object, name);
for (const name of ["importKey", "sign", "verify"]) { spy(SubtleCrypto.prototype, name); spy(crypto.subtle, name); }
for (const name of ["charCodeAt", "codePointAt", "replace", "replaceAll", "slice", "split", "startsWith"])
  spy(String.prototype, name);
for (const name of ["set", "subarray", "slice"]) spy(Uint8Array.prototype, name);
const { then } = Promise.prototype;
Promise.prototype.then = function (...callbacks) {
  Reflect.apply(then, this, [note, () => {}]);
  return Reflect.apply(then, this, callbacks);
};
for (const name of ["race", "all", "resolve"]) spy(Promise, name);
for (const name of ["call", "apply", "bind"]) spy(Function.prototype, name);
spy(RegExp.prototype, "exec"); spy(TextEncoder.prototype, "encode"); spy(JSON, "stringify");
spy(globalThis, "atob"); spy(globalThis, "fetch"); spy(Array, "from"); spy(Uint8Array, "from");
try { Promise.prototype.constructor = class Thief {}; } catch {}
Object.defineProperty(Object.prototype, "then", { configurable: true,
  get() { note(this); return undefined; } });
Object.defineProperty(Object.prototype, "TELEMETRY_SECRET", { configurable: true,
  set() { seen.push("setter"); } });
export default { invoke: async () => JSON.stringify(seen) };
`;

test("a module that patches every global it reaches sees no key, and the report is right", async () => {
  const { second, reported } = await answerOf(THIEF);
  assert.deepEqual(second, []);
  assert.equal(reported.signature, reported.expected);
});
