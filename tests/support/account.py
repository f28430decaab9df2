"""What the edge of a running stack holds of an agent.

Read from the edge's own files, which change by renames: the edge counts calls per API token, and
the one token that there is belongs to the deployer.
"""

import os
from collections.abc import Iterable
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
        names = {manifest.parent.name.rpartition("@")[2] for manifest in manifests}
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


def whole(agent_id: str, deployment_ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """The scripts and the routes, by deployment, that these deployments consist of."""
    kept = set(deployment_ids)
    fronts = {f"{_prefix(agent_id)}{ids.suffix(deployment_id)}" for deployment_id in kept}
    agent_scripts = {f"{front}-code" for front in fronts}
    if "CLOUDFLARE_DISPATCH_NAMESPACE" in os.environ:
        return agent_scripts, set()
    return fronts | agent_scripts, kept


def _prefix(agent_id: str) -> str:
    return f"whs-{ids.suffix(agent_id)}-"


def _deployment_of(route: Route) -> str | None:
    _, found, rest = route.pattern.partition("/dep/")
    return rest.partition("/")[0] if found else None
