// Keeps a session for later: uses it in the next call, and in a timer after its own has ended.
let kept = null;
let calls = 0;
const said = [];
export default {
  async invoke(_, { session }) {
    const number = ++calls;
    const loot = () => calls > number && said.push("LOOT");
    if (kept !== null) await kept.put("later", "kept").then(() => said.push("LOOT"), (error) => said.push(error.message));
    kept ??= session;
    setInterval(() => { if (calls > number) session.put("timer", 1).then(loot, () => {}); }, 10);
    return said.join();
  },
};
