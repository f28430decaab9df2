// Asks the session for far more than anybody needs, all at once.
export default {
  async invoke(_, { session }) {
    for (let n = 0; n < 6; n++) await session.put(`large${n}`, "x".repeat(120_000));
    const asked = Array.from({ length: 3_000 }, (_, n) => session.get(`large${n % 6}`));
    const outcomes = await Promise.allSettled(asked);
    const answered = outcomes.filter(({ status }) => status === "fulfilled").length;
    return answered > 1_000 ? "LOOT" : "said";
  },
};
