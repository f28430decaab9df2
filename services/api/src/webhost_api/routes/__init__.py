"""The HTTP doors: decode, call, answer."""
