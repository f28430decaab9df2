"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="WEBHOST_DATA_DIR", help="The local stack's directory."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
CursorOption = Annotated[str | None, typer.Option(help="Go on where another list ended.")]
AgentArgument = Annotated[str, typer.Argument(help="The agent's id or name.")]
