"""`webhost token`: the token in use, or one that the local stack's issuer signs for any user."""

from typing import Annotated

import typer

from webhost_cli import output
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.local_issuer import signed_for
from webhost_cli.options import StackOption, UrlOption, data_dir_of

DEFAULT_LIFETIME_S = 12 * 3600


def register(app: typer.Typer) -> None:
    app.command()(token)


def token(
    subject: Annotated[
        str | None,
        typer.Argument(help="A user of the local stack; without it, whoever is signed in."),
    ] = None,
    email: Annotated[str | None, typer.Option(help="SUBJECT's email claim.")] = None,
    name: Annotated[str | None, typer.Option(help="SUBJECT's name claim.")] = None,
    expires_in: Annotated[
        int, typer.Option(help="Seconds until SUBJECT's token expires.")
    ] = DEFAULT_LIFETIME_S,
    operator: Annotated[
        bool,
        typer.Option("--operator", help="The local stack's operator's token, for /v1/operator."),
    ] = False,
    url: UrlOption = None,
    data_dir: StackOption = None,
) -> None:
    """Print a token, and nothing else: SUBJECT's, the operator's, or the one that is in use."""
    if operator:
        from webhost_local import kept_identities

        if subject is not None:
            raise CommandError("give SUBJECT or --operator, not both", ExitCode.USAGE)
        shown = kept_identities.load(data_dir_of(data_dir)).operator_token
    elif subject is not None:
        shown = signed_for(subject, data_dir, email=email, name=name, expires_in_s=expires_in)
    else:
        from webhost_cli.connection import origin_of, token_of

        shown = token_of(origin_of(url, data_dir), data_dir, None)
    output.say(shown)
