"""What the gateway has on record: admission, leases, outcomes."""
