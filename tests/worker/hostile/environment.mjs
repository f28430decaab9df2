// Reads every environment it can name.
import * as workers from "cloudflare:workers";
export default {
  invoke: async (_, context) =>
    JSON.stringify([context.env, workers.env ?? null, globalThis.process?.env ?? null, Object.keys(globalThis)]),
};
