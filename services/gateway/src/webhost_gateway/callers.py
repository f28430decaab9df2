"""Who calls: a user by JWT, or by an API key that is checked from memory.

Guarantees: a key that was checked is remembered with the row that it was checked against. Every
fact about it replaces that row, so a key that was rotated or revoked is checked anew; times are
this process's clock. What is remembered is bounded.
"""

from dataclasses import dataclass

from webhost_contracts import api_keys
from webhost_contracts.api_keys import KeyScope
from webhost_kit.clock import now_ms
from webhost_kit.errors import BadToken, Unavailable
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.http import auth
from webhost_kit.http.auth import TokenVerifier, bad_token, bearer_of

from webhost_gateway.decisions import agent_not_found
from webhost_gateway.routing.model import Key, RouteTable

REMEMBERED_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is, and with which API key, if with one."""

    user_id: str
    key_id: str | None = None
    key: Key | None = None

    def require_scope(self, scope: KeyScope) -> None:
        """Raise Unauthorized if the key does not have this scope."""
        if self.key is not None:
            auth.require_scope(self.key.scopes, scope)

    def require_agent(self, agent_id: str) -> None:
        """Raise NotFound if the key is limited to other agents."""
        limited_to = None if self.key is None else self.key.agent_ids
        if limited_to is not None and agent_id not in limited_to:
            raise agent_not_found()


@dataclass(frozen=True, slots=True)
class _Checked:
    caller: Caller
    until_ms: float


class Callers:
    """Tells who an `Authorization` header is."""

    def __init__(
        self, verifier: TokenVerifier, routes: RouteTable, memory: InMemoryProjection
    ) -> None:
        self._verifier = verifier
        self._routes = routes
        self._memory = memory
        self._checked: dict[str, _Checked] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Return who this is. Raises BadToken or Unavailable."""
        if authorization is None:
            raise BadToken("Send a bearer token in the Authorization header.")
        if (known := self._checked.get(authorization)) is not None:
            return self._again(authorization, known)
        if (principal := self._verifier.remembered(authorization)) is not None:
            return Caller(principal.user_id)
        token = bearer_of(authorization)
        if token is not None and api_keys.is_key(token):
            return self._with_key(authorization, token)
        return Caller((await self._verifier.verify(authorization)).user_id)

    def _again(self, authorization: str, known: _Checked) -> Caller:
        caller = known.caller
        is_same = self._routes.keys.get(caller.key_id or "") is caller.key
        if is_same and self._memory.usable and now_ms() < known.until_ms:
            return caller
        del self._checked[authorization]
        return self._with_key(authorization, bearer_of(authorization) or "")

    def _with_key(self, authorization: str, token: str) -> Caller:
        presented = api_keys.parse(token)
        if presented is None:
            raise bad_token()
        if not self._memory.usable:
            raise Unavailable("The gateway is catching up; try again shortly.")
        key = self._routes.keys.get(presented.key_id)
        if key is None or (until_ms := api_keys.good_until_ms(key, presented)) <= now_ms():
            raise bad_token()
        caller = Caller(key.user_id, presented.key_id, key)
        while len(self._checked) >= REMEMBERED_KEYS:
            del self._checked[next(iter(self._checked))]
        self._checked[authorization] = _Checked(caller, until_ms)
        return caller
