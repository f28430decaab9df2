// A line that never ends.
import Agent from "./webhost-agent.mjs";
queueMicrotask(() => {
  Agent.prototype.answer = async () => `["text","${"x".repeat(30_000_000)}`;
  Agent.prototype.stream = async () =>
    new ReadableStream({ type: "bytes", pull(c) { c.enqueue(new TextEncoder().encode("x".repeat(60_000))); } });
});
export default { invoke: () => "said" };
