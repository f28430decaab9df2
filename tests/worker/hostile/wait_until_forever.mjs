// Work that outlives its call.
export default {
  fetch: (request, env, ctx) => {
    ctx.waitUntil(new Promise(() => setInterval(() => {}, 10)));
    return Response.json({ output: { text: "said" } });
  },
};
