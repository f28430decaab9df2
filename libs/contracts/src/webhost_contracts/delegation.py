"""Delegated invocation: what a trusted back end sends to call an agent for one of its users."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from webhost_contracts.invoke import InvokeRequest

Text = Meta(pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")
"""In Python `$` is also before a newline at the end."""


class Delegation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For whom the call is, and which of the back end's calls it is.

    `external_user_id` is the user's subject at the issuer. `correlation` is the back end's own.
    """

    mode: Literal["hmac_v1"]
    external_user_id: Annotated[str, Meta(min_length=1, max_length=255), Text]
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=200), Text]
    correlation: Any = None


class DelegatedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a delegated invocation."""

    delegation: Delegation
    invoke: InvokeRequest
