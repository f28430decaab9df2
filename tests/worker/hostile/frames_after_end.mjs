// Goes on after the end, and ends with numbers that are none.
import Agent from "./webhost-agent.mjs";
const lines = ['["text","said"]', '["end",{"tokens":1e999,"toolCalls":"9","computeMs":-5,"requests":0}]', '["text","owned"]', '["fail","owned"]'].join("\n");
queueMicrotask(() => {
  Agent.prototype.answer = async () => lines;
  Agent.prototype.stream = async () => new Response(lines).body;
});
export default { invoke: () => "said" };
