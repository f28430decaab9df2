"""Reads subscriptions back from the payment provider, for what no delivery brought.

Consumes: an operator's request.
Emits: `account.subscription_changed.v1`, `account.tier_changed.v1`.
Guarantees: what the provider says now is taken over unless a newer delivery was; each account is a
transaction of its own. Whose a subscription is, the provider cannot say: one that no delivery has
named a user for is listed, until a delivery does or an operator assigns it.
On replay: what is taken over is no difference any more.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.billing_rpc import (
    AssignSubscriptionReply,
    AssignSubscriptionRequest,
    ChangedSubscription,
    ReconcileSubscriptionsReply,
    ReconcileSubscriptionsRequest,
    UnassignedSubscription,
)
from webhost_contracts.events import Event
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EventMetadata

from webhost_billing import store
from webhost_billing.decisions import OPERATOR, Account, Refused, after
from webhost_billing.store import ACCOUNTS
from webhost_billing.subscriptions import decisions, model
from webhost_billing.subscriptions import store as subscriptions
from webhost_billing.subscriptions.handlers import NOT_CONFIGURED
from webhost_billing.subscriptions.lemonsqueezy import ProviderAway, ProviderRefused
from webhost_billing.subscriptions.model import Subscription
from webhost_billing.subscriptions.provider import Provider
from webhost_billing.subscriptions.resources import SubscriptionResource, Unusable, resource_of

log = structlog.get_logger(__name__)

MOST_LISTED = 200

T = TypeVar("T")


@dataclass
class _Findings:
    read: set[str] = field(default_factory=set[str])
    changed: dict[str, ChangedSubscription] = field(default_factory=dict[str, ChangedSubscription])
    unassigned: dict[str, UnassignedSubscription] = field(
        default_factory=dict[str, UnassignedSubscription]
    )
    variants: set[str] = field(default_factory=set[str])
    unreadable: int = 0
    left_out: int = 0

    def listed(self, found: Iterable[T]) -> tuple[T, ...]:
        """Return some of these, and count the rest."""
        every = tuple(found)
        self.left_out += max(len(every) - MOST_LISTED, 0)
        return every[:MOST_LISTED]


class Reconciliation:
    """Compares one store's subscriptions with the tables."""

    def __init__(
        self, database: Database, tiers: Collection[str], provider: Provider | None
    ) -> None:
        self._database = database
        self._tiers = tiers
        self._provider = provider
        self._running = asyncio.Lock()

    async def reconcile(
        self, request: ReconcileSubscriptionsRequest
    ) -> ReconcileSubscriptionsReply:
        """Take over what was missed, or show it; say why where that cannot be."""
        if self._provider is None:
            return ReconcileSubscriptionsReply(refused=NOT_CONFIGURED)
        if self._running.locked():
            return ReconcileSubscriptionsReply(refused="a reconciliation is under way")
        async with self._running:
            try:
                return await self._compare(self._provider, request)
            except ProviderAway as error:
                return ReconcileSubscriptionsReply(refused=error.message)
            except ProviderRefused as error:
                return ReconcileSubscriptionsReply(refused=str(error))

    async def assign(self, request: AssignSubscriptionRequest) -> AssignSubscriptionReply:
        """Make a subscription a user's, or say why not."""
        provider = self._provider
        if provider is None:
            return AssignSubscriptionReply(refused=NOT_CONFIGURED)
        try:
            resource = resource_of(await provider.client.subscription(request.subscription_id))
            found = resource.read(provider.variants)
            if resource.attributes.test_mode and not provider.test_mode:
                raise Refused("it is of the provider's test mode")
            return AssignSubscriptionReply(tier=await self._assign(request, found))
        except ProviderAway as error:
            return AssignSubscriptionReply(refused=error.message)
        except (ProviderRefused, Unusable, Refused) as error:
            return AssignSubscriptionReply(refused=str(error))

    async def _assign(self, request: AssignSubscriptionRequest, found: Subscription) -> str:
        metadata = EventMetadata(actor=f"{OPERATOR}{request.operator}")

        async def work(connection: AsyncConnection) -> str:
            await subscriptions.turn(connection, request.user_id)
            owner, _ = (await subscriptions.known(connection, [found.id])).get(
                found.id, (request.user_id, None)
            )
            if owner != request.user_id:
                raise Refused(f"the subscription is {owner}'s")
            account = await store.load(connection, request.user_id)
            facts = decisions.assign(account, found, request.operator, self._tiers, now_ms())
            return (await ACCOUNTS.append(connection, account, facts, metadata)).state.tier

        return await self._database.retry_conflicts(work)

    async def _compare(
        self, provider: Provider, request: ReconcileSubscriptionsRequest
    ) -> ReconcileSubscriptionsReply:
        findings = _Findings()
        async for page in provider.client.subscriptions():
            await self._page(provider, request, _readable(page, provider, findings), findings)
        async with self._database.transaction() as connection:
            missing = sorted(await subscriptions.ids_known(connection) - findings.read)
        return ReconcileSubscriptionsReply(
            read=len(findings.read),
            changed=findings.listed(findings.changed.values()),
            unassigned=findings.listed(findings.unassigned.values()),
            unknown_variants=findings.listed(sorted(findings.variants)),
            missing=findings.listed(missing),
            unreadable=findings.unreadable,
            left_out=findings.left_out,
            applied=not request.dry_run and bool(findings.changed),
        )

    async def _page(
        self,
        provider: Provider,
        request: ReconcileSubscriptionsRequest,
        read: Sequence[tuple[SubscriptionResource, Subscription]],
        findings: _Findings,
    ) -> None:
        async with self._database.transaction() as connection:
            known = await subscriptions.known(connection, [found.id for _, found in read])
            others = await subscriptions.users_of_customers(
                connection, [found.customer_id for _, found in read if found.id not in known]
            )
        for resource, found in read:
            findings.read.add(found.id)
            if found.id in known:
                if found.tier is None:
                    findings.variants.add(found.variant_id)
                user_id, was = known[found.id]
                if (change := await self._record(request, user_id, was, found)) is not None:
                    findings.changed[found.id] = change
            elif found.tier is not None and found.status != "expired":
                users = sorted(others.get(found.customer_id, ()))
                findings.unassigned[found.id] = _unassigned(resource, found, users)

    async def _record(
        self,
        request: ReconcileSubscriptionsRequest,
        user_id: str,
        was: Subscription,
        found: Subscription,
    ) -> ChangedSubscription | None:
        """Record what the provider says of a subscription, unless this is a dry run."""
        if not model.replaces(found, was, read_back=True):
            return None
        metadata = EventMetadata(actor=f"{OPERATOR}{request.operator}")

        async def work(connection: AsyncConnection) -> tuple[Account, Sequence[Event]]:
            await subscriptions.turn(connection, user_id)
            account = await store.load(connection, user_id)
            facts = decisions.observe(
                account, found, decisions.RECONCILE, self._tiers, now_ms(), read_back=True
            )
            if not request.dry_run:
                await ACCOUNTS.append(connection, account, facts, metadata)
            return account, facts

        before, facts = await self._database.retry_conflicts(work)
        if found.status is None or not facts:
            return None
        return ChangedSubscription(
            id=found.id,
            user_id=user_id,
            was=was.status,
            status=found.status,
            previous_tier=before.tier,
            tier=reduce(after, facts, before).tier,
        )


def _readable(
    page: Iterable[bytes], provider: Provider, findings: _Findings
) -> list[tuple[SubscriptionResource, Subscription]]:
    """Return what counts of a page, with its state; one that cannot be read hides no other."""
    read: list[tuple[SubscriptionResource, Subscription]] = []
    for content in page:
        try:
            resource = resource_of(content)
            is_good = provider.test_mode or not resource.attributes.test_mode
            read.append((resource, resource.read(provider.variants if is_good else {})))
        except Unusable as error:
            findings.unreadable += 1
            log.error("subscription not understood", reason=str(error))
    return read


def _unassigned(
    resource: SubscriptionResource, found: Subscription, users: Sequence[str]
) -> UnassignedSubscription:
    if found.status is None:
        raise Unusable("a subscription without a status")
    return UnassignedSubscription(
        id=found.id,
        status=found.status,
        tier=found.tier,
        customer_id=found.customer_id,
        email=resource.attributes.user_email,
        created_at_ms=resource.created_at_ms,
        users=tuple(users),
    )
