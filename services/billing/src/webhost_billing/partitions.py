"""The partitions of usage, and the name under which the fold of each is known."""


def checkpoint_name(partition: int) -> str:
    """Return the name of the checkpoint up to which this partition is folded."""
    return f"billing.usage.{partition}"
