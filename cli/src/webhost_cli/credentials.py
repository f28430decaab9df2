"""Stored logins: `credentials.json` in the user's configuration directory, 0600, per origin."""

import time
from pathlib import Path

import msgspec
import typer
from webhost_local.data_dir import write_whole


class Login(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """One origin's token; `expiresAtS` in Unix seconds."""

    token: str
    expires_at_s: int
    issuer: str

    def expired(self, now_s: float) -> bool:
        return self.expires_at_s <= now_s


def load(origin: str) -> Login | None:
    """The login for this origin, expired or not."""
    return _read().get(origin)


def store(origin: str, login: Login) -> Path:
    """Keep a login, and drop those that have expired; return the file."""
    now_s = time.time()
    kept = {name: old for name, old in _read().items() if not old.expired(now_s)}
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, msgspec.json.format(msgspec.json.encode(kept | {origin: login})).decode())
    return file


def _read() -> dict[str, Login]:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, Login])
    except FileNotFoundError:
        return {}


def _file() -> Path:
    return Path(typer.get_app_dir("webhost")) / "credentials.json"
