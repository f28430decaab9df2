"""Which parts of their limits users have reached, stated once each."""
