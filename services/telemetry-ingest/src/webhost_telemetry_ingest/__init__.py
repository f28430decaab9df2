"""The decision whether a Worker's telemetry is accepted."""
