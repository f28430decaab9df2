// Reports calls that were not made, to the address in the message.
export default {
  async invoke({ input }, { env }) {
    const [, url] = input.messages[0].content.split(" ");
    const headers = { "X-Telemetry-Deployment-Id": "dep_1", "X-Telemetry-Signature": `v1=${"0".repeat(64)}` };
    return await fetch(url ?? "http://127.0.0.1:1/", { method: "POST", headers, body: "{}" }).then(() => "LOOT", () => "refused");
  },
};
