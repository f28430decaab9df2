"""The development issuer: OIDC for one machine. No passwords, loopback only."""
