"""Users, agents, their pointer, and the decision to deploy."""
