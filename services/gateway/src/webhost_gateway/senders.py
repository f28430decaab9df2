"""Who sends a request, and what it asks for: what is checked before anything of an agent is.

In the order of the contract: credentials, rate, size, shape. A back end's request names its user in
the body, so its signature, size and shape come before that user's rate.
"""

from dataclasses import dataclass
from time import monotonic

from webhost_contracts import ids
from webhost_contracts.delegation import DelegatedRequest
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.invoke import InvokeRequest
from webhost_kit.clock import now_ms
from webhost_kit.http import idempotency
from webhost_kit.http.bodies import SMALL_BYTES, Bodies
from webhost_kit.http.rate_limiter import RateLimiter, Share

from webhost_gateway import decisions, spans
from webhost_gateway.callers import Caller, Callers
from webhost_gateway.delegated import Sources
from webhost_gateway.ledger.idempotency import DELEGATED, INVOKE, IdempotencyKey
from webhost_gateway.request import MAX_BODY_BYTES, Request
from webhost_gateway.routing.model import RouteTable


@dataclass(frozen=True)
class SenderLimits:
    """What each tier allows, and the most calls per minute to one agent."""

    tiers: dict[str, Entitlements]
    agent_requests_per_minute: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request from a known sender, of the right shape."""

    caller: Caller
    entitlements: Entitlements
    invoke: InvokeRequest
    key: IdempotencyKey | None


@dataclass(frozen=True, slots=True)
class Delegated:
    """A back end's request for a user: signed, and of the right shape."""

    source: str
    user_id: str
    request: DelegatedRequest
    body: bytes


class Senders:
    """Knows users by their tokens and keys, and back ends by their signatures."""

    def __init__(
        self,
        *,
        callers: Callers,
        issuer: str,
        sources: Sources,
        routes: RouteTable,
        limits: SenderLimits,
        share: Share,
    ) -> None:
        self._callers = callers
        self._issuer = issuer
        self._sources = sources
        self._routes = routes
        self._bodies = Bodies()
        self._limits = limits
        self._user_rate = RateLimiter("user", share=share)
        self._agent_rate = RateLimiter("agent", share=share)

    async def user(self, request: Request, *, streamed: bool) -> Asked:
        """Return what a user asks for. Raises the Problem of the first check that it fails."""
        caller = await self._callers.caller(request.authorization)
        spans.sender_known(request)
        user_id = caller.user_id
        entitlements = self._entitlements_of(user_id)
        self._check_rate(user_id, request.agent_id, entitlements)
        caller.require_scope("invoke")
        body = await self._body(request, user_id)
        invoke = decisions.parse(body)
        key = request.idempotency_key
        if key is None:
            return Asked(caller, entitlements, invoke, None)
        idempotency.check_key(key)
        asked = (b"stream\n" if streamed else b"invoke\n") + body
        scoped = IdempotencyKey(user_id, request.agent_id, INVOKE, key, asked)
        return Asked(caller, entitlements, invoke, scoped)

    async def source(self, request: Request) -> Delegated:
        """Return what a back end sent. Raises the Problem of the first check that it fails."""
        signed = self._sources.signed(request.headers, now_ms())
        # Anybody can name a source.
        body = await self._body(request, f"address {request.address}")
        signed.check(body)
        spans.sender_known(request)
        delegated = decisions.parse_delegated(body)
        given = delegated.delegation.idempotency_key
        idempotency.check_no_secret(given, ["delegation", "idempotencyKey"])
        user_id = ids.user_id(self._issuer, delegated.delegation.external_user_id)
        return Delegated(signed.source, user_id, delegated, body)

    def asked_for(self, delegated: Delegated, agent_id: str) -> Asked:
        """Return what a back end asks for, as its user. Raises RateLimited."""
        user_id = delegated.user_id
        entitlements = self._entitlements_of(user_id)
        self._check_rate(user_id, agent_id, entitlements)
        key = delegated.request.delegation.idempotency_key
        asked = b"delegated\n" + delegated.body
        scoped = IdempotencyKey(user_id, agent_id, DELEGATED, key, asked)
        return Asked(Caller(user_id), entitlements, delegated.request.invoke, scoped)

    async def _body(self, request: Request, sender: str) -> bytes:
        size = min(request.announced(MAX_BODY_BYTES), MAX_BODY_BYTES)
        if size <= SMALL_BYTES:
            return await request.body(MAX_BODY_BYTES)
        async with self._bodies.reserve(sender, size):
            return await request.body(MAX_BODY_BYTES)

    def _entitlements_of(self, user_id: str) -> Entitlements:
        account = self._routes.accounts.get(user_id)
        tiers = self._limits.tiers
        return tiers[known_tier(tiers, account and account.tier)]

    def _check_rate(self, user_id: str, agent_id: str, entitlements: Entitlements) -> None:
        now_s = monotonic()
        limit = entitlements.requests_per_minute
        self._user_rate.acquire(user_id, limit, now_s)
        agent = self._routes.agents.get(agent_id)
        # Only for a user's own agents: others must not use up an agent's rate.
        if agent is not None and agent.user_id == user_id:
            limit = min(limit, self._limits.agent_requests_per_minute or limit)
            self._agent_rate.acquire(agent_id, limit, now_s)
