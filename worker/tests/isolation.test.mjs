import assert from "node:assert/strict";
import { before, test } from "node:test";

import { Outside, startAgent, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

let disk, outside, sessions;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
});

test("customer code gets the user's own variables and none of the platform's", async () => {
  const source = `import { env as imported } from "cloudflare:workers";
    export default { invoke: async (_, { env }) => JSON.stringify([env, imported]) };`;
  const own = { MODEL_KEY: "k", OUTSIDE: outside.url };
  const agent = await startAgent(source, { outside, sessions, env: { MODEL_KEY: "k" } });
  const [given, imported] = JSON.parse((await agent.answer("x")).output.text);
  assert.deepEqual(given, own);
  assert.deepEqual(imported, own);
});
