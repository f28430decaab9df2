// Answers with an object whose every property is code.
const proxy = () => new Proxy(function () {}, {
  get: (_, key) => (key === "then" ? undefined : key === Symbol.toPrimitive ? () => "owned" : proxy()),
  apply: proxy, construct: proxy, getPrototypeOf: () => String.prototype, has: () => true,
});
export default { invoke: () => ({ output: { text: proxy() }, usage: proxy() }) };
