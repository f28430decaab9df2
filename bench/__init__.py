"""Benchmarks: every figure is a ratio to a limit that was measured in the same run."""
