"""Local stand-ins for everything outside the services, on one machine."""
