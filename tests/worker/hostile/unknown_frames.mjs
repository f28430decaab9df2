// Frames of no known kind, and of a prototype's.
import Agent from "./webhost-agent.mjs";
const lines = '["__proto__","owned"]\n["constructor","owned"]\n["end",{"__proto__":{"tokens":5}}]\n';
queueMicrotask(() => {
  Agent.prototype.answer = async () => lines;
  Agent.prototype.stream = async () => new Response(lines).body;
});
export default { invoke: () => "said" };
