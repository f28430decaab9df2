// Puts an answer into the cache under the front's own address. workerd has no cache, and says so: this
// shows no more. Where there is one, as at Cloudflare, fronts are safe because they never look into it.
export default {
  async invoke({ input }) {
    const [address] = input.messages[0].content.split(" ");
    const said = [];
    for (const cache of [caches.default, await caches.open("owned")]) {
      const owned = new Response("owned", { headers: { "Cache-Control": "max-age=9999" } });
      await cache.put(new Request(address), owned).then(() => said.push("put"), (error) => said.push(error.message));
    }
    return said.every((each) => each.startsWith("No Cache was configured")) ? "said" : `LOOT ${said}`;
  },
};
