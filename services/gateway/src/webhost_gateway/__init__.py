"""Admission, the call to the Worker, and the fact that it happened."""
