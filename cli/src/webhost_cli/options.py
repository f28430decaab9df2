"""Options and arguments that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer
from webhost_local.data_dir import DEFAULT, DataDir

DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="WEBHOST_DATA_DIR",
        file_okay=False,
        help="The local stack's directory.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]
LimitOption = Annotated[int, typer.Option(min=1, max=100, help="The maximum number of items.")]
CursorOption = Annotated[str | None, typer.Option(help="Continue after an earlier page.")]
AgentArgument = Annotated[str, typer.Argument(help="The agent's id or name.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The origin of the API (or WEBHOST_URL).")
]
StackOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", file_okay=False, help="A local stack's directory (or WEBHOST_DATA_DIR)."
    ),
]
BusOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        file_okay=False,
        help="A local stack's directory (or WEBHOST_DATA_DIR). Elsewhere, set NATS_URL with an "
        "operator's user and password.",
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="SUBJECT", help="Act as this user of the local stack."),
]


def data_dir_of(chosen: Path | None) -> DataDir:
    """The local stack's directory: the one given, WEBHOST_DATA_DIR's, or the default one."""
    return DataDir.at(chosen or Path(os.environ.get("WEBHOST_DATA_DIR") or DEFAULT))
