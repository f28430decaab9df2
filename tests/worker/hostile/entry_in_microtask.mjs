// Replaces the main module's handler once everything has been evaluated.
queueMicrotask(async () => {
  const { default: Agent } = await import("./webhost-agent.mjs");
  Agent.prototype.fetch = () => new Response("owned");
  Agent.fetch = Agent.prototype.fetch;
});
export default { invoke: () => "said" };
