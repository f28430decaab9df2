"""The `webhost` command."""

import sys

from webhost_local.data_dir import StackError
from webhost_local.terminal import plain

from webhost_cli.app import app
from webhost_cli.errors import CommandError, ExitCode


def main() -> None:
    """Run the command line; errors that the user can act on go to stderr, without a traceback."""
    try:
        app()
    except CommandError as error:
        _end(error, error.exit_code)
    except StackError as error:
        _end(error, ExitCode.FAILURE)


def _end(error: Exception, code: ExitCode) -> None:
    sys.stderr.write(f"webhost: {plain(str(error))}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
