"""The call to a Worker, and its answer on the way back."""
