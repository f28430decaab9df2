"""One service's Postgres."""
