"""What crosses a wire between the services, and nothing else."""
