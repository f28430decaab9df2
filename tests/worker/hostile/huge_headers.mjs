// Headers by the megabyte.
export default {
  fetch: () => {
    const headers = new Headers({ "Content-Type": "application/json" });
    for (let n = 0; n < 1000; n++) headers.append("Set-Cookie", `c${n}=${"x".repeat(1000)}; Path=/`);
    headers.set("X-Owned", "owned".repeat(10_000));
    return new Response('{"output":{"text":"said"}}', { headers });
  },
};
