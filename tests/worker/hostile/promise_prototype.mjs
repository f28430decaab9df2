// Watches every promise.
const seen = new Set();
const { then } = Promise.prototype;
Promise.prototype.then = function (...callbacks) {
  Reflect.apply(then, this, [(value) => seen.add(value instanceof CryptoKey ? "LOOT key" : typeof value), () => {}]);
  return Reflect.apply(then, this, callbacks);
};
try { Promise.prototype.constructor = class Thief extends Promise {}; } catch {}
export default { invoke: async () => [...seen].join() };
