"""What every HTTP endpoint does the same way."""
