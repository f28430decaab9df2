"""How many deployments an installation's account has room for.

A deployment beyond that is refused when it is validated, before anything is made at the provider,
which would refuse one of its scripts in the middle of the work.
"""

from webhost_kit.database.engine import Database

from webhost_deployer import store
from webhost_deployer.model import Deployment


class Capacity:
    """The room for `most` deployments at once, whoever's they are; None is without end."""

    def __init__(self, database: Database, most: int | None) -> None:
        self._database = database
        self._most = most

    async def problem_of(self, deployment: Deployment) -> str | None:
        """Say why there is no room for this deployment. Raises Unavailable."""
        if self._most is None:
            return None
        async with self._database.transaction() as connection:
            before = await store.holders_before(connection, deployment)
        if before < self._most:
            return None
        return (
            f"This installation is full: it has room for {self._most} deployments. Delete agents"
            " that are not needed any more and deploy again, or ask its operator for more room."
        )
