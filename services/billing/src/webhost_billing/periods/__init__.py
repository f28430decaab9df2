"""A month of a user's, as billing's own facts about it tell: what was reached, and its seal."""
