// Never answers.
export default { invoke: () => new Promise(() => {}) };
