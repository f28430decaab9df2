"""`webhost demo`: the whole life of one agent, on real parts, every step checked."""
