"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="WEBHOST_DATA_DIR", help="The local stack's directory."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
