"""Facts about a user, stated by the api."""

from webhost_contracts.events.base import Event


class UserRegistered(Event, frozen=True, kw_only=True, tag="user.registered.v1"):
    """The first valid request of a new subject arrived."""

    issuer: str
    subject: str
    email: str | None = None
    name: str | None = None
