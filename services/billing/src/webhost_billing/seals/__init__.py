"""Periods that are closed for good, and what came too late for them."""
