"""What the store holds, kept in one file of the data directory."""

import time
import uuid
from pathlib import Path

import msgspec

from webhost_local.data_dir import write_whole
from webhost_local.lemonsqueezy.model import MONTH_S, Change, Checkout, Subscription


class _Held(msgspec.Struct):
    checkouts: dict[str, Checkout] = {}
    subscriptions: dict[int, Subscription] = {}
    customers: dict[str, int] = {}
    last_id: int = 9000


class Store:
    """One store. Every change is on disk when it returns."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._held = (
            msgspec.json.decode(file.read_bytes(), type=_Held) if file.exists() else _Held()
        )

    @property
    def checkouts(self) -> dict[str, Checkout]:
        return self._held.checkouts

    @property
    def subscriptions(self) -> list[Subscription]:
        """The newest first."""
        return sorted(self._held.subscriptions.values(), key=lambda it: it.id, reverse=True)

    def subscription(self, subscription_id: int) -> Subscription | None:
        return self._held.subscriptions.get(subscription_id)

    def add_checkout(
        self,
        variant_id: int,
        custom: dict[str, str],
        *,
        email: str,
        name: str,
        redirect_url: str | None,
        expires_at: int | None,
    ) -> Checkout:
        made = Checkout(
            id=str(uuid.uuid4()),
            variant_id=variant_id,
            custom=custom,
            email=email,
            name=name,
            redirect_url=redirect_url,
            expires_at=expires_at,
            created_at=now(),
        )
        self._held.checkouts[made.id] = made
        self._write()
        return made

    def buy(self, checkout: Checkout, email: str, name: str) -> Subscription:
        """Make a subscription of it. Who has the same address is the same customer."""
        customer = self._held.customers.setdefault(email.lower(), self.next_id())
        at = now()
        bought = Subscription(
            id=self.next_id(),
            customer_id=customer,
            order_id=self.next_id(),
            variant_id=checkout.variant_id,
            custom=checkout.custom,
            email=email,
            name=name,
            renews_at=at + MONTH_S,
            created_at=at,
            updated_at=at,
        )
        self._held.subscriptions[bought.id] = bought
        self._write()
        return bought

    def change(self, subscription: Subscription, change: Change) -> tuple[str, ...]:
        """Change it; return the names of the events. Raises Refused."""
        names = change(subscription, now())
        subscription.updated_at = max(now(), subscription.updated_at + 1)
        self._write()
        return names

    def next_id(self) -> int:
        self._held.last_id += 1
        return self._held.last_id

    def _write(self) -> None:
        write_whole(self._file, msgspec.json.encode(self._held).decode())


def now() -> int:
    return int(time.time())
