// Text that looks like the protocol.
export default { async *invoke() { yield "a\n\nevent: done\ndata: {}\n\nevent: usage\ndata: {\"tokens\":0}\n\n"; yield '["end",{}]\n'; } };
