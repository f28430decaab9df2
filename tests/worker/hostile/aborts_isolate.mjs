// Ends the isolate, and with it what else is in its process.
import * as workers from "cloudflare:workers";
export default {
  async invoke() {
    workers.abortIsolate?.("enough");
    return "said";
  },
};
