"""Usage folded again from the stream, beside the live rows, which it then replaces."""
