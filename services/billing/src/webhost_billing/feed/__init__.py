"""Settled usage as a feed, for operators and their programs."""
