// Replaces the class of every answer.
const owned = () => Reflect.construct(Original, ["owned", { status: 200 }]);
const Original = globalThis.Response;
globalThis.Response = new Proxy(Original, { construct: owned, get: (t, k) => (k === "json" ? owned : t[k]) });
for (const name of ["text", "json", "clone"]) Original.prototype[name] = owned;
export default { invoke: () => "said" };
