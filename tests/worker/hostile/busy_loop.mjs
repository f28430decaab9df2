// Computes for ever.
export default { invoke: () => { for (;;); } };
