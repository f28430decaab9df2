// Never lets anything else run.
export default { invoke: async () => { for (;;) await null; } };
