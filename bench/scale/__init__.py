"""What limits growth, computed and simulated from what was measured: `python -m bench.scale`."""
