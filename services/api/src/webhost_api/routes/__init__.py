"""The HTTP routes: decode, call, answer."""
