"""Who a request is, and what it may do: users by JWT or by API key.

Guarantees: a key is compared with its row at every request, so a revocation here is in force when
it was answered; while the database may lack own facts, such as a revocation, no key is good. What a
route allows is decided here for all routes: its scope, and for a key that is limited to some agents
which agent the request is about. A route that is about none is refused to such a key, unless it is
`open_to_limited`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from cachetools import LRUCache
from webhost_contracts import api_keys, ids
from webhost_contracts.api_keys import KeyScope, Presented
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.errors import Unauthorized
from webhost_kit.eventsourcing.store import require_verified
from webhost_kit.http.auth import bad_token, bearer_of, require_scope

from webhost_api.handlers import Caller, agent_not_found, deployment_not_found
from webhost_api.keys import store
from webhost_api.keys.model import ApiKey
from webhost_api.rate_limits import RateLimits
from webhost_api.tables import deployments

REMEMBERED_KEYS = 10_000

E = TypeVar("E", bound=Callable[..., Any])

_open_to_limited: set[Any] = set()


def open_to_limited(endpoint: E) -> E:
    """Mark a route that is about no agent, or that keeps to the caller's agents by itself."""
    _open_to_limited.add(endpoint)
    return endpoint


class Keys:
    """Looks keys up, whosever they are. One that was not good the last time costs its address,
    before it is looked up: a key can be made up by anybody. One that was good waits for nobody.
    """

    def __init__(self, database: Database, rate_limits: RateLimits) -> None:
        self._database = database
        self._rate_limits = rate_limits
        self._good: LRUCache[Presented, None] = LRUCache(REMEMBERED_KEYS)

    async def find(
        self, authorization: str | None, address: str
    ) -> tuple[ApiKey, Presented] | None:
        """Return the good key of an `Authorization` header, as stored and as presented; None where
        it holds no key.

        Raises BadToken for a key that is not good, RateLimited or Unavailable.
        """
        token = bearer_of(authorization)
        if token is None or not api_keys.is_key(token):
            return None
        presented = api_keys.parse(token)
        if presented is None:
            raise bad_token()
        if presented not in self._good:
            self._rate_limits.acquire_unknown_key(address)
        async with self._database.transaction() as connection:
            require_verified(connection)
            key = await store.load(connection, presented.key_id)
        if key is None or api_keys.good_until_ms(key, presented) <= now_ms():
            self._good.pop(presented, None)
            raise bad_token()
        self._good[presented] = None
        return key, presented


def require_jwt(caller: Caller) -> None:
    """Raise Unauthorized for a request with an API key, whatever its scopes."""
    if caller.key is not None:
        raise Unauthorized(
            "API keys are made, rotated and revoked with a JWT; sign in instead of using a key.",
            details={"reason": "scope"},
        )


async def require(
    database: Transactions,
    caller: Caller,
    scope: KeyScope,
    endpoint: Callable[..., Any],
    path: Mapping[str, Any],
) -> None:
    """Raise Unauthorized or NotFound where the caller's key, if it has one, does not allow this."""
    if (key := caller.key) is None:
        return
    require_scope(key.scopes, scope)
    if key.agent_ids is None or endpoint in _open_to_limited:
        return
    if "agentId" in path:
        if path["agentId"] not in key.agent_ids:
            raise agent_not_found()
    elif "deploymentId" in path:
        if await _agent_of(database, path["deploymentId"]) not in key.agent_ids:
            raise deployment_not_found()
    else:
        require_whole_account(caller)


def require_whole_account(caller: Caller) -> None:
    """Raise Unauthorized for a key that is limited to some agents."""
    if caller.agent_ids is not None:
        raise Unauthorized(
            "This API key is limited to some agents, and the request is about the whole account.",
            details={"reason": "scope"},
        )


async def _agent_of(database: Transactions, deployment_id: str) -> str | None:
    if not ids.has_prefix(deployment_id, ids.DEPLOYMENT):
        return None
    query = sa.select(deployments.c.agent_id).where(deployments.c.deployment_id == deployment_id)
    async with database.transaction() as connection:
        return await connection.scalar(query)
