"""The store with its webhook: every change is told, as LemonSqueezy tells it."""

from webhost_local.lemonsqueezy import resources
from webhost_local.lemonsqueezy.model import CREATED, UPDATED, Change, Checkout, Subscription
from webhost_local.lemonsqueezy.store import Store
from webhost_local.lemonsqueezy.webhooks import Webhooks


class Shop:
    """What the API and the pages work with. `base_url` is where both are."""

    def __init__(self, store: Store, webhooks: Webhooks, base_url: str) -> None:
        self.store = store
        self.webhooks = webhooks
        self.base_url = base_url

    def buy(self, checkout: Checkout, email: str, name: str) -> Subscription:
        """Sell what a checkout is for."""
        bought = self.store.buy(checkout, email, name)
        self._tell(bought, CREATED)
        return bought

    def change(self, subscription: Subscription, change: Change) -> None:
        """Change a subscription. Raises Refused."""
        self._tell(subscription, (*self.store.change(subscription, change), UPDATED))

    def _tell(self, subscription: Subscription, event_names: tuple[str, ...]) -> None:
        for name in event_names:
            number = self.store.next_id()
            content = resources.delivery(name, subscription, number, self.base_url)
            self.webhooks.send(name, subscription.id, content)
