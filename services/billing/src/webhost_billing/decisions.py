"""Pure: who may be on which tier, and whose account is disabled.

An operator's tier and what subscriptions give do not replace each other: the higher one holds (see
`subscriptions.model`). So a gift outlives a subscription, and a purchase a gift that is taken back.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from webhost_contracts import ids
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    CheckoutStarted,
    Envelope,
    Event,
    SubscriptionChanged,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.rpc import AccountStatus

from webhost_billing.subscriptions import model
from webhost_billing.subscriptions.model import Subscription, Subscriptions

MAX_REASON_CHARS = 500
OPERATOR = "operator:"
SUBSCRIPTION = "subscription"
"""The sources of a tier: an operator, or what the user's subscriptions give."""


@dataclass(frozen=True)
class Account:
    """What billing has decided about a user. Before the first decision: version 0, `free`.

    `granted` is the tier that an operator set.
    """

    user_id: str
    version: int = 0
    tier: str = DEFAULT_TIER
    disabled: bool = False
    granted: str = DEFAULT_TIER
    subscriptions: Subscriptions = field(default_factory=dict[str, Subscription])

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return self.user_id


def evolve(account: Account, envelope: Envelope, event: Event) -> Account:
    """Return what a fact makes of the account."""
    return replace(after(account, event), version=envelope.version)


def after(account: Account, event: Event) -> Account:
    """Return what a fact makes of all but the account's version."""
    match event:
        case TierChanged():
            is_set = event.source.startswith(OPERATOR)
            granted = (event.granted or event.tier) if is_set else account.granted
            return replace(account, tier=event.tier, granted=granted)
        case AccountDisabled():
            return replace(account, disabled=True)
        case AccountEnabled():
            return replace(account, disabled=False)
        case WebhookProcessed():
            noted = model.noted(account.subscriptions, event.subscription_id)
            return replace(account, subscriptions=noted)
        case SubscriptionChanged():
            return replace(account, subscriptions=model.with_change(account.subscriptions, event))
        case CheckoutStarted():
            return account
        case _:
            raise TypeError(f"not a fact about an account: {event.type_name()}")


class Refused(Exception):
    """The request cannot be granted; the message says why."""


def set_tier(
    account: Account, tier: str, operator: str, tiers: Collection[str], now_ms: int
) -> list[TierChanged]:
    """Return the facts that grant the user this tier; none where it is granted already.

    Raises Refused for an unknown tier, or for what is no user id.
    """
    require_user_id(account)
    if tier not in tiers:
        raise Refused(f"there is no tier '{tier}'; there are {', '.join(tiers)}")
    highest = model.tier_of(tier, account.subscriptions.values(), tiers, now_ms)
    if (tier, highest) == (account.granted, account.tier):
        return []
    return [
        TierChanged(
            tier=highest,
            previous_tier=account.tier,
            source=_source(operator),
            granted=None if tier == highest else tier,
        )
    ]


def settle(account: Account, tiers: Collection[str], now_ms: int) -> list[TierChanged]:
    """Return the fact that the tier is another one by what the user's subscriptions give now."""
    highest = model.tier_of(account.granted, account.subscriptions.values(), tiers, now_ms)
    if highest == account.tier:
        return []
    return [TierChanged(tier=highest, previous_tier=account.tier, source=SUBSCRIPTION)]


def set_status(
    account: Account, status: AccountStatus, operator: str, reason: str | None
) -> list[AccountDisabled | AccountEnabled]:
    """Return the facts that give the account this status; none where it has it already.

    Raises Refused for what is no user id.
    """
    require_user_id(account)
    if (status == "disabled") == account.disabled:
        return []
    if status == "enabled":
        return [AccountEnabled(source=_source(operator))]
    return [AccountDisabled(source=_source(operator), reason=reason and reason[:MAX_REASON_CHARS])]


def require_user_id(account: Account) -> None:
    """Raise Refused where the account's id is no user's."""
    if not ids.has_prefix(account.user_id, ids.USER):
        raise Refused(f"'{account.user_id}' is not a user id")


def _source(operator: str) -> str:
    return f"{OPERATOR}{operator}"[:200]
