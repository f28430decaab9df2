"""Postgres has a connection for each that all processes together may open, at the most of each.

A process more of each service is there while a version is rolled out.
"""

from collections.abc import Iterator
from inspect import signature

from webhost_kit.database.engine import Database
from webhost_local.installation.services import SERVICES

from deploy.rendering import Object, name_of, of_kind, service_of

POOL: int = 2 * signature(Database).parameters["pool_size"].default
POOLS = {"telemetry-ingest": 4}
"""Of services whose pool has another size."""
BESIDE = {"api": 10, "deployer": 20, "gateway": 8, "telemetry-ingest": 4, "billing": 6}
"""Sessions of their own: statements, relays, what listens, locks (the deployer's: one an agent)."""
OTHERS = 30
"""Migrations, operators, replicas, and what watches Postgres."""


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield the databases that would have too few."""
    clusters = {it["metadata"]["name"]: it for it in of_kind(objects, "Cluster")}
    own = clusters.pop("webhost-gateway-postgres", None)
    shared = clusters.pop("webhost-postgres", None)
    needed = {service: _most(service, objects) * _each(service) for service in SERVICES}
    if own is not None:
        yield from _database(own, needed.pop("gateway"))
    if shared is not None:
        yield from _database(shared, sum(needed.values()))


def _each(service: str) -> int:
    return POOLS.get(service, POOL) + BESIDE[service]


def _most(service: str, objects: list[Object]) -> int:
    scaled = {
        it["spec"]["scaleTargetRef"]["name"]: it["spec"]["maxReplicaCount"]
        for it in of_kind(objects, "ScaledObject")
    }
    replicas = [
        scaled.get(it["metadata"]["name"], it["spec"].get("replicas", 1))
        for it in of_kind(objects, "Deployment")
        if service_of(it) == service
    ]
    return sum(replicas) + len(replicas)


def _database(cluster: Object, needed: int) -> Iterator[str]:
    given = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
    if given < needed + OTHERS:
        yield f"{name_of(cluster)}: max_connections is {given}, and {needed + OTHERS} may be opened"
