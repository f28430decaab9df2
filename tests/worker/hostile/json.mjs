// Takes over JSON on both sides.
const { parse, stringify } = JSON;
const seen = [];
JSON.parse = (text) => { seen.push(String(text).slice(0, 2000)); return parse(text); };
JSON.stringify = (value) => { seen.push(stringify(value)?.slice(0, 2000)); return stringify(value); };
export default { invoke: () => seen.join("\n") };
