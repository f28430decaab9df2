// Never ends.
export default { async *invoke() { for (;;) { yield "more ".repeat(1000); await scheduler.wait(1); } } };
