"""The names that the platform keeps for itself in a Worker's environment."""

RESERVED_PREFIX = "WEBHOST_"
RESERVED_NAMES = frozenset(
    {
        "TELEMETRY_SECRET",
        "TELEMETRY_REPORT_URL",
        "USER_ID",
        "AGENT_ID",
        "DEPLOYMENT_ID",
        "RUNTIME_PROVIDER",
    }
)


def is_reserved(name: str) -> bool:
    """Say whether a user may not declare a variable of this name."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX)
