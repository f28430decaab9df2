"""Customers' secrets: sealed here, kept by the deployer alone, which says which have a value.

Guarantees: a value is sealed before it leaves this process, and is in no log, error or table of it.
While the deployer is away, all of this is Unavailable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webhost_contracts import subjects
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.rpc import (
    ChangeSecretsReply,
    ChangeSecretsRequest,
    DeleteSecretsRequest,
    SecretsReply,
    SecretsRequest,
    SetSecretsRequest,
)
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus
from webhost_kit.sealing import Owner, Sealer

from webhost_api.bounds import SECRETS_A_DAY
from webhost_api.handlers import Caller, agent_not_found
from webhost_api.model import Agent


@dataclass
class Secrets:
    """Requests to the deployer. All raise Unavailable; changes return the version behind them."""

    bus: Bus
    sealer: Sealer

    def seal_with(self, sealer: Sealer) -> None:
        """Seal values with this key from now on."""
        self.sealer = sealer

    async def set_at_ms(self, agent: Agent) -> dict[str, int]:
        """Return when each of the agent's secrets was set that has a value."""
        request = SecretsRequest(user_id=agent.user_id, agent_id=agent.id)
        return (await rpc.call(self.bus, subjects.RPC_SECRETS, request, SecretsReply)).set_at_ms

    async def set(
        self,
        caller: Caller,
        agent: Agent,
        allowed: Entitlements,
        values: Mapping[str, str],
        operation: str,
    ) -> int:
        """Set secrets; the same operation again changes nothing. Raises NotFound, RateLimited."""
        request = SetSecretsRequest(
            **_common(caller, agent),
            sealed={
                name: self.sealer.seal(value, Owner(agent.user_id, agent.id, name))
                for name, value in values.items()
            },
            operation=operation,
            changes_a_day=SECRETS_A_DAY.limit_of(allowed),
        )
        reply = await self._change(subjects.RPC_SET_SECRETS, request)
        if reply.full_until_ms is not None:
            raise SECRETS_A_DAY.refusal(allowed, reply.full_until_ms - caller.metadata.at_ms)
        return reply.version

    async def delete(self, caller: Caller, agent: Agent, names: Sequence[str]) -> int:
        """Delete secrets; one that has no value is left as it is. Raises NotFound."""
        request = DeleteSecretsRequest(**_common(caller, agent), keys=tuple(names))
        return (await self._change(subjects.RPC_DELETE_SECRETS, request)).version

    async def _change(self, subject: str, request: ChangeSecretsRequest) -> ChangeSecretsReply:
        reply = await rpc.call(self.bus, subject, request, ChangeSecretsReply)
        if reply.gone:
            raise agent_not_found()
        return reply


def _common(caller: Caller, agent: Agent) -> dict[str, Any]:
    return {
        "user_id": agent.user_id,
        "agent_id": agent.id,
        "actor": caller.metadata.actor,
        "active_deployment_id": agent.active_deployment_id,
        "request_id": caller.metadata.request_id,
        "traceparent": caller.metadata.traceparent,
    }
