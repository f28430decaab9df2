"""What a command tells its user when it cannot do what was asked."""


class CommandError(Exception):
    """The message is one line, for display; the command ends with exit code 1."""
