"""The `webhost` command."""

import itertools
import sys

import msgspec
import typer
from webhost_local.data_dir import StackError
from webhost_local.terminal import plain, plain_json

from webhost_cli.app import app
from webhost_cli.errors import CommandError, ExitCode


def main() -> None:
    """Run the command line; errors that the user can act on go to stderr, without a traceback.

    With --json an error is one JSON object, also where the options themselves are wrong.
    """
    given = itertools.takewhile(lambda argument: argument != "--", sys.argv[1:])
    as_json = "--json" in given
    try:
        sys.exit(app(standalone_mode=not as_json))
    except CommandError as error:
        _end(error, as_json)
    except StackError as error:
        _end(CommandError(str(error)), as_json)
    except typer.TyperException as error:
        _end(CommandError(error.format_message(), ExitCode(error.exit_code)), as_json)
    except typer.Abort:
        _end(CommandError("aborted"), as_json)


def _end(error: CommandError, as_json: bool) -> None:
    if as_json:
        line = plain_json(msgspec.json.encode(error.envelope()).decode())
    else:
        line = f"webhost: {plain(str(error))}"
    sys.stderr.write(f"{line}\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
