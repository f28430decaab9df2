// Hands the front functions and stubs in place of text.
import { RpcTarget } from "cloudflare:workers";
import Agent from "./webhost-agent.mjs";
class Stub extends RpcTarget { split() { return ["owned"]; } getReader() { return this; } read() { return this; } }
queueMicrotask(() => {
  Agent.prototype.answer = async () => () => "owned";
  Agent.prototype.stream = async () => new Stub();
});
export default { invoke: () => "said" };
