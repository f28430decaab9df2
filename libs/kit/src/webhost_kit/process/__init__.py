"""How a service is configured, observed and run."""
