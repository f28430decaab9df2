"""Facts about calls that back ends tried to make for users, stated by the gateway.

The aggregate is the refusal itself: its id is the event's, its version 1.
"""

from webhost_contracts import subjects
from webhost_contracts.events.base import Event


class DelegationRefused(Event, frozen=True, kw_only=True, tag="delegation.refused.v1"):
    """A back end with a good signature called for this user, and was refused.

    Not every refusal is stated, see the gateway. `code` is the answer's, and `reason` its detail,
    where it has one. Without `agent_id` the call was for no agent of this user's.
    """

    source: str
    code: str
    reason: str | None = None
    agent_id: str | None = None

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the one subject of all refusals of this user's."""
        return subjects.event(user_id, self.kind(), user_id)
