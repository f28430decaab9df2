"""Tokens of the local stack's issuer, which signs in anyone as anyone."""

from pathlib import Path

from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.options import data_dir_of


def signed_for(
    subject: str,
    data_dir: Path | None,
    *,
    expires_in_s: int,
    email: str | None = None,
    name: str | None = None,
) -> str:
    """The JWT of a local stack's user. Raises StackError where no stack has ever run."""
    from webhost_local.issuer.identity import IssuerIdentity

    if not subject:
        raise CommandError("the subject is empty; which user is it?", ExitCode.USAGE)
    issuer = IssuerIdentity.load(data_dir_of(data_dir))
    return issuer.token(subject, email=email, name=name, expires_in_s=expires_in_s)
