"""Pure: who may be on which tier, and whose account is disabled."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from webhost_contracts import ids
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    Envelope,
    Event,
    TierChanged,
)
from webhost_contracts.rpc import AccountStatus

MAX_REASON_CHARS = 500


@dataclass(frozen=True)
class Account:
    """What billing has decided about a user. Before the first decision: version 0, `free`."""

    user_id: str
    version: int = 0
    tier: str = DEFAULT_TIER
    disabled: bool = False

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return self.user_id


def evolve(account: Account, envelope: Envelope, event: Event) -> Account:
    """Return what a fact makes of the account."""
    match event:
        case TierChanged():
            return replace(account, version=envelope.version, tier=event.tier)
        case AccountDisabled():
            return replace(account, version=envelope.version, disabled=True)
        case AccountEnabled():
            return replace(account, version=envelope.version, disabled=False)
        case _:
            raise TypeError(f"not a fact about an account: {event.type_name()}")


class Refused(Exception):
    """The request cannot be granted; the message says why."""


def set_tier(
    account: Account, tier: str, operator: str, tiers: Collection[str]
) -> list[TierChanged]:
    """Return the facts that put the user on this tier; none where they are on it already.

    Raises Refused for an unknown tier, or for what is no user id.
    """
    _require_user_id(account)
    if tier not in tiers:
        raise Refused(f"there is no tier '{tier}'; there are {', '.join(sorted(tiers))}")
    if tier == account.tier:
        return []
    return [TierChanged(tier=tier, previous_tier=account.tier, source=_source(operator))]


def set_status(
    account: Account, status: AccountStatus, operator: str, reason: str | None
) -> list[AccountDisabled | AccountEnabled]:
    """Return the facts that give the account this status; none where it has it already.

    Raises Refused for what is no user id.
    """
    _require_user_id(account)
    if (status == "disabled") == account.disabled:
        return []
    if status == "enabled":
        return [AccountEnabled(source=_source(operator))]
    return [AccountDisabled(source=_source(operator), reason=reason and reason[:MAX_REASON_CHARS])]


def _require_user_id(account: Account) -> None:
    if not ids.has_prefix(account.user_id, ids.USER):
        raise Refused(f"'{account.user_id}' is not a user id")


def _source(operator: str) -> str:
    return f"operator:{operator}"[:200]
