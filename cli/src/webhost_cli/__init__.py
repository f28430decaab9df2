"""The webhost command."""
