// Makes code from text.
const tried = [];
for (const make of [() => eval("1 + 1"), () => new Function("return 2")(), () => (async () => {}).constructor("return 2")()]) {
  try { tried.push(String(make())); } catch (error) { tried.push(error.name); }
}
export default { invoke: () => tried.join() };
