// Nested beyond any stack.
import Agent from "./webhost-agent.mjs";
const line = `["text",${"[".repeat(500_000)}${"]".repeat(500_000)}]\n`;
queueMicrotask(() => {
  Agent.prototype.answer = async () => line;
  Agent.prototype.stream = async () => new Response(line).body;
});
export default { invoke: () => "said" };
