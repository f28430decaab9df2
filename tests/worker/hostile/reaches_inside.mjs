// Calls the front, the origin and this machine's loopback as if it were the gateway.
export default {
  async invoke({ input }) {
    const address = new URL(input.messages[0].content.split(" ")[0]);
    const tried = [address.href, `${address.origin}/v1/agents`, "http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/", "http://localhost:4222/"];
    // The outbound Worker's own answers: not allowed, not reached.
    const reached = ({ status }) => ([403, 502].includes(status) ? "" : "LOOT");
    const answers = await Promise.all(tried.map((url) => fetch(url, { method: "POST", body: "{}" }).then(reached, () => "")));
    return answers.join("");
  },
};
