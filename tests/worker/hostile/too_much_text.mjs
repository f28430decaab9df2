// Over the limit of an answer.
export default { invoke: () => "\u0001".repeat(5_000_000) };
