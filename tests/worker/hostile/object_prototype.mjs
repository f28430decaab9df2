// Lies in wait on the prototype chain.
const seen = [];
for (const name of ["then", "toJSON", "TELEMETRY_SECRET", "WEBHOST_SESSIONS", "authorization", "key"]) {
  Object.defineProperty(Object.prototype, name, {
    configurable: true,
    get() { seen.push([name, typeof this]); return undefined; },
    set(value) { seen.push([name, String(value)]); },
  });
}
export default { invoke: () => `seen ${seen.map(String).join()}` };
