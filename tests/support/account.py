"""What the edge of a running stack holds of an agent.

Read from the edge's own files, which change by renames: the edge counts calls per API token, and
the one token that there is belongs to the deployer.
"""

from pathlib import Path

import msgspec
from webhost_contracts import ids
from webhost_local.data_dir import DataDir
from webhost_local.edge.model import Route

from tests.support.stack import Stack


class Account:
    """Scripts and routes by agent; also answers while the edge is away."""

    def __init__(self, stack: Stack) -> None:
        self._edge: Path = DataDir.at(stack.data_dir).edge

    def scripts_of(self, agent_id: str) -> set[str]:
        """Names of the scripts of an agent's deployments."""
        manifests = (self._edge / "scripts").glob("*/manifest.json")
        names = {manifest.parent.name for manifest in manifests}
        return {name for name in names if name.startswith(_prefix(agent_id))}

    def routes_of(self, agent_id: str, deployment_ids: set[str]) -> set[str]:
        """Deployment ids, of these or of any script of the agent's, that a route leads to."""
        file = self._edge / "routes.json"
        routes = msgspec.json.decode(file.read_bytes(), type=list[Route]) if file.exists() else []
        return {
            deployment_id
            for route in routes
            if (deployment_id := _deployment_of(route)) is not None
            and (
                deployment_id in deployment_ids
                or (route.script or "").startswith(_prefix(agent_id))
            )
        }


def script_name(agent_id: str, deployment_id: str) -> str:
    """What a deployment's script is called."""
    return f"{_prefix(agent_id)}{ids.suffix(deployment_id)}"


def _prefix(agent_id: str) -> str:
    return f"whs-{ids.suffix(agent_id)}-"


def _deployment_of(route: Route) -> str | None:
    _, found, rest = route.pattern.partition("/dep/")
    return rest.partition("/")[0] if found else None
