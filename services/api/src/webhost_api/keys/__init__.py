"""Users' API keys: the rules, the rows, and what a request with one may do."""
