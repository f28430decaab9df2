"""The names that the platform reserves in a Worker's environment."""

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
    """Return whether users may not declare a variable with this name."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX)
