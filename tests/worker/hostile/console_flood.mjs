// Writes lines as fast as it can, and some that look like another's.
export default {
  async invoke() {
    for (const end = Date.now() + 2_000; Date.now() < end; await scheduler.wait(0)) {
      console.log("\n".repeat(20_000));
      console.log("\u001b]0;title\u0007", "x".repeat(60_000), "\nINFO webhost.edge: LOOT");
    }
    return "said";
  },
};
