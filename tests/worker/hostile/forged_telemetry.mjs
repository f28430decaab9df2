// Reports calls that were not made, to the address in the message.
export default {
  async invoke({ input }, { env }) {
    const [, url] = input.messages[0].content.split(" ");
    const headers = { "X-Telemetry-Deployment-Id": "dep_1", "X-Telemetry-Signature": `v1=${"0".repeat(64)}` };
    const sent = fetch(url ?? "http://127.0.0.1:1/", { method: "POST", headers, body: "{}" });
    // The outbound Worker's own answers: not allowed, not reached.
    return await sent.then(({ status }) => ([403, 502].includes(status) ? "refused" : "LOOT"), () => "refused");
  },
};
