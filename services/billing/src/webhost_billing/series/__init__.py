"""Usage over time, and what it costs."""
