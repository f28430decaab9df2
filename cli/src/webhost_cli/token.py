"""`webhost token`: a user's JWT, signed by the development issuer's key."""

from typing import Annotated

import typer
from webhost_local.data_dir import DEFAULT, DataDir

from webhost_cli.options import DataDirOption

DEFAULT_LIFETIME_S = 12 * 3600


def register(app: typer.Typer) -> None:
    app.command()(token)


def token(
    subject: str,
    email: Annotated[str | None, typer.Option(help="The user's email claim.")] = None,
    name: Annotated[str | None, typer.Option(help="The user's name claim.")] = None,
    expires_in: Annotated[int, typer.Option(help="Seconds until it expires.")] = DEFAULT_LIFETIME_S,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Print a JWT for SUBJECT, and nothing else."""
    from webhost_local.issuer.identity import IssuerIdentity

    issuer = IssuerIdentity.load_or_make(DataDir.at(data_dir))
    typer.echo(issuer.token(subject, email=email, name=name, expires_in_s=expires_in))
