"""What a provider holds against what the deployer knows: what goes, what is said. Pure.

A deployment owns its script and route until it has failed or was torn down. What names a
deployment that is not known here is left to the caller, who has to find out first whether it is
really nobody's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from webhost_deployer.cloudflare.addresses import is_pattern_of, worker_name
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.scripts import tagged
from webhost_deployer.model import Deployment, Phase


@dataclass(frozen=True)
class Plan:
    """What to do. `missing` are live deployments whose script is gone: they are reported."""

    scripts: tuple[ListedScript, ...]
    routes: tuple[ListedRoute, ...]
    missing: tuple[str, ...]


def deployments_of(scripts: Iterable[ListedScript]) -> dict[str, ListedScript]:
    """Return the scripts that say which deployment they are for; the session Worker's does not."""
    return {
        deployment_id: script
        for script in scripts
        if (deployment_id := tagged(script.tags, "deployment")) is not None
    }


def plan(
    scripts: Iterable[ListedScript],
    routes: Iterable[ListedRoute],
    known: Mapping[str, Deployment],
    listed_at_ms: int,
) -> Plan:
    """Decide. `known` was read after the listing and holds what is live and what is listed.

    A deployment that is not in `known` is nobody's. One that went live after `listed_at_ms` is
    not missed.
    """
    by_deployment = deployments_of(scripts)
    orphans = {
        deployment_id: script
        for deployment_id, script in by_deployment.items()
        if deployment_id not in known or known[deployment_id].ended
    }
    nobodys = {script.name: deployment_id for deployment_id, script in orphans.items()} | {
        worker_name(state.command.agent_id, state.id): state.id
        for state in known.values()
        if state.ended
    }
    return Plan(
        scripts=tuple(orphans.values()),
        routes=tuple(
            route
            for route in routes
            if route.script in nobodys and is_pattern_of(nobodys[route.script], route.pattern)
        ),
        missing=tuple(
            state.id
            for state in known.values()
            if state.phase is Phase.LIVE
            and state.id not in by_deployment
            and (state.progress_at_ms or 0) < listed_at_ms
        ),
    )
