"""The `webhost` command."""

import sys

from webhost_local.data_dir import StackError

from webhost_cli.app import app
from webhost_cli.errors import CommandError


def main() -> None:
    """Run the command line; errors that the user can act on are one line on stderr."""
    try:
        app()
    except (CommandError, StackError) as error:
        sys.stderr.write(f"webhost: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
