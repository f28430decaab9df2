import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";

import { joined, Outside, startAgent, startSessions } from "./support/platform.mjs";
import { temporaryFolder } from "./support/workerd.mjs";

const TEMPLATES = "../../services/api/src/webhost_api/templates/";
const ECHO = readFileSync(new URL(`${TEMPLATES}echo.mjs`, import.meta.url), "utf8");

let disk, outside, sessions, agent;

before(async () => {
  disk = temporaryFolder();
  outside = await Outside.start();
  sessions = await startSessions({ disk });
  agent = await startAgent(ECHO, { outside, sessions });
});

test("it echoes the message and counts a session's turns", async () => {
  const { sessionId, output } = await agent.answer("hello");
  assert.equal(output.text, "You said: hello");
  const second = await agent.answer("again", { sessionId });
  assert.equal(second.output.text, "You said: again (turn 2)");
  assert.equal(joined(await agent.events("more", { sessionId })), "You said: more (turn 3)");
  assert.equal((await agent.answer("hello")).output.text, "You said: hello");
});

test("it goes on counting in the next deployment", async () => {
  const { sessionId } = await agent.answer("one");
  const next = await startAgent(ECHO, { outside, sessions, deploymentId: "dep_2" });
  const answer = await next.answer("two", { sessionId });
  await next.stop();
  assert.equal(answer.output.text, "You said: two (turn 2)");
});

test("it streams word by word, and the words join to the text", async () => {
  const said = "  two  words\nand more ";
  const deltas = (await agent.events(said)).filter(({ name }) => name === "delta");
  assert.deepEqual(
    deltas.map(({ data }) => data.text),
    ["You ", "said:   ", "two  ", "words\n", "and ", "more "],
  );
  assert.equal((await agent.answer(said)).output.text, `You said: ${said}`);
});

test("it answers the last user message", async () => {
  const messages = [
    { role: "system", content: "s" },
    { role: "user", content: "first" },
    { role: "user", content: "last" },
    { role: "assistant", content: "a" },
  ];
  const answer = await agent.answer("", { input: { messages } });
  assert.equal(answer.output.text, "You said: last");
});
