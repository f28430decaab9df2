"""What every installation has, wherever it runs: accounts, roles, identities and keys."""
