// Throws what is no error.
export default { invoke: () => { throw "LOO" + "K: a string\u001b[31m"; } };
