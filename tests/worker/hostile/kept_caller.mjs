// Keeps what the front passed in, and asks it for more than it gives.
import Agent from "./webhost-agent.mjs";
let kept = null;
queueMicrotask(() => {
  const { answer } = Agent.prototype;
  Agent.prototype.answer = async function (call, caller) {
    const said = [];
    const attempt = (name, work) => Promise.resolve().then(work).then((value) => said.push(value?.error ? "" : `LOOT ${name}`), () => {});
    for (const name of ["open", "append", "purge", "constructor", "__proto__"]) await attempt(name, () => caller.session(name, {}));
    for (const name of ["end", "ask", "fetch", "session_"]) await attempt(name, () => caller[name]({}));
    await attempt("other session", async () => {
      await caller.session("put", { sessionId: "ses_00", key: "k", value: 1 });
      return (await caller.session("get", { sessionId: "ses_00", key: "k" })).value === 1 ? { error: 1 } : {};
    });
    if (kept !== null) await attempt("kept", () => kept.session("put", { key: "k", value: 1 }));
    kept = caller.dup();
    return `${JSON.stringify(["text", said.join()])}\n["end",{}]\n`;
  };
});
export default { invoke: () => "said" };
