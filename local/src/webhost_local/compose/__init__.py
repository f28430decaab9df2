"""What docker-compose.yml needs of this program: its variables, their values, its database."""
