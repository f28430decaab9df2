"""Compares what a provider holds with what the deployer knows: what to remove or report. Pure.

A deployment owns its script and route until it has failed or was torn down. A script or route of
an unknown deployment is left to the caller, who has to find out first whether it is really an
orphan.

What may be touched at all: scripts with this installation's tag; and routes on our host, with our
pattern, that lead to a script with the name that we give the same deployment. Routes carry no
tags: host, pattern and name together identify ours. So whatever else the owner of the account, or
another installation, has there is left alone, even a route of theirs on our host, or one with our
pattern that leads to a script of theirs.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from webhost_deployer.cloudflare.addresses import (
    CustomDomain,
    Routing,
    agent_of,
    agent_script_name,
    front_name,
)
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.scripts import tagged
from webhost_deployer.model import Deployment, Phase


@dataclass(frozen=True)
class OwnRoute:
    """A route of ours, by its pattern and by the name of its script."""

    listed: ListedRoute
    script: str
    deployment_id: str
    agent_id: str


@dataclass(frozen=True)
class Plan:
    """What to do. `missing` are live deployments of which a script is gone: they are reported."""

    scripts: tuple[ListedScript, ...]
    routes: tuple[ListedRoute, ...]
    missing: tuple[str, ...]


def deployments_of(scripts: Iterable[ListedScript]) -> dict[str, list[ListedScript]]:
    """Return the scripts by the deployment that they say they are for; the own ones say none."""
    found: dict[str, list[ListedScript]] = {}
    for script in scripts:
        deployment_id = tagged(script.tags, "deployment")
        if deployment_id is not None:
            found.setdefault(deployment_id, []).append(script)
    return found


def own_routes(routing: Routing, routes: Iterable[ListedRoute]) -> list[OwnRoute]:
    """Return the routes of our host, pattern and script name."""
    if not isinstance(routing, CustomDomain):
        return []
    found: list[OwnRoute] = []
    for route in routes:
        deployment_id = routing.deployment_of(route.pattern)
        if deployment_id is None or route.script is None:
            continue
        agent_id = agent_of(route.script, deployment_id)
        if agent_id is not None:
            found.append(OwnRoute(route, route.script, deployment_id, agent_id))
    return found


def plan(
    scripts: Iterable[ListedScript],
    routes: Iterable[OwnRoute],
    known: Mapping[str, Deployment],
    listed_at_ms: int,
    others_scripts: Collection[str] = (),
) -> Plan:
    """Decide. `known` was read after the listing and holds what is live and what is listed.

    A deployment that is not in `known` is an orphan; its route is removed unless it leads to one of
    `others_scripts`, which exist without our tag. One that went live after `listed_at_ms` is not
    reported as missing.
    """
    by_deployment = deployments_of(scripts)

    def is_orphan(route: OwnRoute) -> bool:
        state = known.get(route.deployment_id)
        if state is None:
            return route.script not in others_scripts
        return state.ended and route.script == front_name(state.agent_id, state.id)

    return Plan(
        scripts=tuple(
            script
            for deployment_id, its_scripts in by_deployment.items()
            if deployment_id not in known or known[deployment_id].ended
            for script in its_scripts
        ),
        routes=tuple(route.listed for route in routes if is_orphan(route)),
        missing=tuple(
            state.id
            for state in known.values()
            if state.phase is Phase.LIVE
            and not _is_whole(state, by_deployment.get(state.id, ()))
            and (state.progress_at_ms or 0) < listed_at_ms
        ),
    )


def _is_whole(state: Deployment, found: Iterable[ListedScript]) -> bool:
    """Say whether there is all that the deployment consists of, where it is."""
    namespace = state.plan.namespace
    names = {agent_script_name(state.agent_id, state.id)}
    if namespace is None:
        names.add(front_name(state.agent_id, state.id))
    return names <= {script.name for script in found if script.namespace == namespace}
