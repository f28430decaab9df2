// Takes over iteration.
const original = Array.prototype[Symbol.iterator];
Array.prototype[Symbol.iterator] = function* () { yield "owned"; yield* Reflect.apply(original, this, []); };
Array.prototype.map = function () { return ["owned"]; };
String.prototype.split = () => ["owned"];
export default { invoke: () => "said" };
