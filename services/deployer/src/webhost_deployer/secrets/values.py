"""The values of secrets, opened in memory when they are about to be put on a Worker."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from webhost_kit.database.engine import Database
from webhost_kit.sealing import Opener, Owner

from webhost_deployer.model import Deployment
from webhost_deployer.secrets import store


@dataclass(frozen=True)
class Changes:
    """What a Worker lacks of its agent's secrets to have them as of `version`.

    `values` by name, None for one that is to be removed.
    """

    version: int
    values: dict[str, str | None] = field(repr=False)

    @property
    def bindings(self) -> dict[str, str]:
        """Return the values of a Worker that has none yet."""
        return {key: value for key, value in self.values.items() if value is not None}


class SecretValues:
    """Reads and opens. All methods raise Unavailable while Postgres is away."""

    def __init__(self, database: Database, opener: Opener) -> None:
        self._database = database
        self._opener = opener

    async def not_set(self, deployment: Deployment) -> Sequence[str]:
        """Return the names that the deployment requires and that have no value."""
        required = deployment.plan.required_keys
        if not required:
            return ()
        async with self._database.transaction() as connection:
            there = await store.set_at_ms(connection, deployment.agent_id)
        return [key for key in required if key not in there]

    async def changes_since(self, deployment: Deployment, version: int) -> Changes:
        """Return what changed after this version. Raises CannotOpen."""
        async with self._database.snapshot() as connection:
            newest = await store.load(connection, deployment.agent_id)
            sealed = await store.changes_since(connection, deployment.agent_id, version)
        opened = {
            key: value and self._open(deployment, key, value) for key, value in sealed.items()
        }
        return Changes(newest.version if newest else 0, opened)

    def _open(self, deployment: Deployment, key: str, sealed: str) -> str:
        owner = Owner(deployment.user_id, deployment.agent_id, key)
        return self._opener.open(sealed, owner)
