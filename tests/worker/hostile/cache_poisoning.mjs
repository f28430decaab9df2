// Puts an answer into the cache under the front's own addresses.
export default {
  async invoke({ input }) {
    const [address] = input.messages[0].content.split(" ");
    for (const cache of [caches.default, await caches.open("owned")].filter(Boolean))
      for (const method of ["GET", "POST"])
        await cache.put(new Request(address, { method: "GET" }), new Response("owned", { headers: { "Cache-Control": "max-age=9999" } })).catch(() => method);
    return "said";
  },
};
