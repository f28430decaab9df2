"""Accounts as the configuration of a NATS server has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["service", "stream"]


@dataclass(frozen=True)
class NatsUser:
    """A user. Without a list, what it may send or hear within its account is everything."""

    name: str
    password: str
    publish: Sequence[str] | None = None
    subscribe: Sequence[str] | None = None

    def declaration(self) -> dict[str, Any]:
        lists = {"publish": self.publish, "subscribe": self.subscribe}
        allowed = {key: {"allow": list(one)} for key, one in lists.items() if one is not None}
        permissions = {"permissions": allowed} if allowed else {}
        return {"user": self.name, "password": self.password, **permissions}


@dataclass(frozen=True)
class Export:
    """What an account lets others send to it (`service`), or receive from it (`stream`).

    A service answers once, unless `silence` says after how long without an answer it has ended.
    """

    kind: Kind
    subject: str
    silence: str | None
    to: Sequence[str]

    def declaration(self) -> dict[str, Any]:
        declared: dict[str, Any] = {self.kind: self.subject, "accounts": list(self.to)}
        if self.silence is not None:
            declared |= {"response_type": "stream", "response_threshold": self.silence}
        return declared


@dataclass(frozen=True)
class Import:
    """What an account sends to another, or receives from it."""

    kind: Kind
    account: str
    subject: str

    def declaration(self) -> dict[str, Any]:
        return {self.kind: {"account": self.account, "subject": self.subject}}


@dataclass(frozen=True)
class Account:
    """A subject space of its own, with or without streams."""

    users: Sequence[NatsUser]
    jetstream: bool = True
    exports: Sequence[Export] = ()
    imports: Sequence[Import] = ()

    def declaration(self) -> dict[str, Any]:
        return {
            "users": [user.declaration() for user in self.users],
            "exports": [one.declaration() for one in self.exports],
            "imports": [one.declaration() for one in self.imports],
            **({"jetstream": "enabled"} if self.jetstream else {}),
        }
