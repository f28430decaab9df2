"""Domain-free machinery shared by the services."""
