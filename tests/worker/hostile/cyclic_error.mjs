// Throws an error that cannot be described.
export default {
  invoke: () => {
    const error = new Error("x".repeat(10_000_000));
    error.cause = error;
    Object.defineProperty(error, "name", { get() { throw error; } });
    Object.defineProperty(error, "stack", { get() { return error; } });
    throw error;
  },
};
