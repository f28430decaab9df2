// More frames than text.
import Agent from "./webhost-agent.mjs";
const lines = '["text",""]\n'.repeat(1_000_000);
queueMicrotask(() => {
  Agent.prototype.answer = async () => lines;
  Agent.prototype.stream = async () => new Response(lines).body;
});
export default { invoke: () => "said" };
