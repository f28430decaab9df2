"""Usage as a fold of the USAGE stream; tiers and totals."""
