"""Which origin a command talks to, and as whom.

Origin: `--url`, else the local stack of `--data-dir`, else WEBHOST_URL, else the local stack of
WEBHOST_DATA_DIR or of the default directory. User: `--as` (the local stack's issuer signs), else
WEBHOST_TOKEN (a JWT or an API key), else the login that is stored for the origin.
"""

import inspect
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from webhost_cli import credentials
from webhost_cli.client import Api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.local_issuer import signed_for
from webhost_cli.options import AsOption, StackOption, UrlOption, data_dir_of

P = ParamSpec("P")

_TOKEN_LIFETIME_S = 3600


def origin_of(url: str | None, data_dir: Path | None) -> str:
    """The public origin. Raises StackError when it is a local stack that is not running."""
    from webhost_local import state

    if url is None and data_dir is None:
        url = os.environ.get("WEBHOST_URL")
    if url:
        if not url.startswith(("http://", "https://")):
            raise CommandError(f"not an http(s) address: {url}", ExitCode.USAGE)
        return url.rstrip("/")
    return state.read(data_dir_of(data_dir)).origin


def token_of(origin: str, data_dir: Path | None, subject: str | None) -> str:
    """The bearer token to use. Raises CommandError when there is none."""
    if subject is not None:
        return signed_for(subject, data_dir, expires_in_s=_TOKEN_LIFETIME_S)
    if token := os.environ.get("WEBHOST_TOKEN"):
        return token.strip()
    login = credentials.load(origin)
    if login is None:
        raise CommandError(
            f"not signed in at {origin}: run `webhost login`, set WEBHOST_TOKEN, "
            "or use --as SUBJECT with a local stack",
            ExitCode.NOT_SIGNED_IN,
        )
    if login.expired(time.time()):
        raise CommandError(
            f"the login for {origin} has expired: run `webhost login` again",
            ExitCode.NOT_SIGNED_IN,
        )
    return login.token


def shell_bearer_of(url: str | None, data_dir: Path | None, subject: str | None) -> str:
    """How a shell gets the same token: a variable, or a command that prints it."""
    if subject is None and os.environ.get("WEBHOST_TOKEN"):
        return "$WEBHOST_TOKEN"
    # By the path that found us: the shell may know us by an alias alone.
    command = [sys.argv[0] if Path(sys.argv[0]).name == "webhost" else "webhost", "token"]
    if subject is not None:
        command.append(subject)
    elif url is not None:
        command += ["--url", url]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    return f"$({shlex.join(command)})"


def with_api(command: Callable[Concatenate[Api, P], None]) -> Callable[..., None]:
    """Give a command its `api`, and the three options that say which one."""

    @wraps(command)
    def connected(
        *, url: str | None, data_dir: Path | None, subject: str | None, **rest: Any
    ) -> None:
        origin = origin_of(url, data_dir)
        token = token_of(origin, data_dir, subject)
        shell_bearer = shell_bearer_of(url, data_dir, subject)
        with Api(origin, token, shell_bearer=shell_bearer) as api:
            command(api, **rest)  # pyright: ignore[reportCallIssue]

    _, *own = inspect.signature(command).parameters.values()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in (("url", UrlOption), ("data_dir", StackOption), ("subject", AsOption))
    ]
    # Typer reads the signature; what it sees is the command's without `api`, and these options.
    connected.__signature__ = inspect.Signature([*own, *options])  # pyright: ignore[reportAttributeAccessIssue]
    connected.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return connected
