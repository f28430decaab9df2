// Hands the front a stream of something else than bytes.
import Agent from "./webhost-agent.mjs";
queueMicrotask(() => {
  Agent.prototype.answer = async () => '["text",{"toString":"owned"}]\n["end",{}]';
  Agent.prototype.stream = async () => new ReadableStream({ start(c) { c.enqueue({ owned: true }); c.close(); } });
});
export default { invoke: () => "said" };
