"""Brings this process's keys to wherever they have to be, and says how far that is.

Consumes: the deployer's own rows; an operator's `rpc.deployer.revoke-telemetry-key`, and
`rpc.deployer.keys` (see `webhost_kit.process.keys_watch`). Emits: work for the executor.
Guarantees: of several deployers with different keys, the one that was started last says which ones
are brought; a request to revoke is kept before it is answered.
On replay: all of it may be repeated.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace
from webhost_contracts.maintenance import KeysReply
from webhost_contracts.platform_keys import Ids
from webhost_contracts.rpc import RevokeTelemetryKeyReply, RevokeTelemetryKeyRequest
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.sealing import Opener

from webhost_deployer import store as deployments
from webhost_deployer.budget import calls_for
from webhost_deployer.provider import OwnScripts, ProviderError
from webhost_deployer.rotation import store
from webhost_deployer.rotation.resealing import count_by_key, reseal

log = structlog.get_logger(__name__)

EVERY_S = 5.0


class KeysInForce:
    """The keys of one process. `wake` lets the executor look for work."""

    def __init__(
        self,
        database: Database,
        own_scripts: OwnScripts,
        opener: Opener,
        namespace: str | None,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._own_scripts = own_scripts
        self._opener = opener
        self._namespace = namespace
        self._wake = wake
        self._lagged_ms = 0
        self._front_keys = own_scripts.public_key_ids
        self._keys: Ids = (*self._front_keys, f"secrets/{opener.newest}")

    async def run(self) -> None:
        """Claim the keys, then look for what lacks them, for the lifetime of the process."""
        is_claimed = False
        while True:
            try:
                if not is_claimed:
                    async with self._database.transaction() as connection:
                        await store.claim(connection, self._keys)
                    is_claimed = True
                await self.once()
            except (Unavailable, ProviderError, TimeoutError) as error:
                log.warning("keys not brought everywhere", reason=str(error))
            except Exception as error:
                if not is_away(error):
                    raise
                log.warning("keys not brought everywhere", reason=str(error))
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        """Mark the fronts that lag, seal again what is sealed for another key, and upload the own
        scripts again that lag. Raises Unavailable, ProviderError.
        """
        async with self._database.transaction() as connection:
            refreshed = await store.claimed(connection, self._keys)
            if refreshed is None:
                return
            lagging = await store.mark_lagging(connection, self._front_keys)
        if lagging:
            log.info("fronts lag", count=lagging)
            self._wake()
        resealed = await reseal(self._database, self._opener)
        if resealed.done:
            log.info("secrets sealed again", count=resealed.done)
        if not refreshed:
            with calls_for(None, removes=False):
                await self._own_scripts.refresh_own_scripts(self._namespace)
            async with self._database.transaction() as connection:
                await store.set_refreshed(connection, self._keys, refreshed=True)

    async def complete(self, reply: KeysReply) -> KeysReply:
        """Say what lacks the keys, or when it last did, and what is sealed for which.

        Raises Unavailable.
        """
        async with self._database.transaction() as connection:
            lagging = await store.count_lagging(connection, self._front_keys)
            refreshed = await store.claimed(connection, self._keys)
        if not lagging and refreshed:
            lagging = await self._outdated_scripts()
        elif not refreshed:
            lagging += 1
        if lagging:
            self._lagged_ms = now_ms()
        return replace(
            reply,
            lagging=lagging,
            since_ms=max(reply.since_ms, self._lagged_ms),
            sealed=await count_by_key(self._database),
        )

    async def _outdated_scripts(self) -> int:
        try:
            with calls_for(None, removes=False):
                outdated = await self._own_scripts.outdated_own_scripts(self._namespace)
        except (ProviderError, TimeoutError) as error:
            log.warning("own scripts not looked at", error=str(error))
            return 1
        if outdated:
            async with self._database.transaction() as connection:
                await store.set_refreshed(connection, self._keys, refreshed=False)
        return outdated

    async def revoke(self, request: RevokeTelemetryKeyRequest) -> RevokeTelemetryKeyReply:
        """Have a deployment's telemetry key revoked, and say how far that is."""
        async with self._database.transaction() as connection:
            found = await deployments.load(connection, request.deployment_id)
            if found is None or found.started is None:
                return RevokeTelemetryKeyReply(refused="there is no such deployment")
            generation = request.generation or found.plan.key_generation
            revoked = found.plan.key_generation > generation
            if not revoked:
                await store.request_revocation(connection, found, request.operator)
            is_due = await store.is_due(connection, found.id)
        self._wake()
        return RevokeTelemetryKeyReply(
            generation=generation, revoked=revoked, front_has_next=revoked and not is_due
        )
