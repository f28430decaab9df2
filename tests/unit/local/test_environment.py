"""Each process of the stack gets the settings that it needs, and no other process's secrets."""

import dataclasses
import json
from pathlib import Path

import pytest
from webhost_local import replicas
from webhost_local.data_dir import DataDir
from webhost_local.environment import Environment
from webhost_local.installation.identities import Identities
from webhost_local.installation.services import SERVICES
from webhost_local.postgres_server import Cluster

PORTS = {"nats": 1, "edge": 2, "api": 3, "gateway": 4, "gateway-2": 5, "telemetry-ingest": 6} | {
    "lemonsqueezy": 9,
    **{f"{name}-ops": 10 + i for i, name in enumerate([*SERVICES, "gateway-2"])},
}


@pytest.fixture
def environment() -> Environment:
    return Environment(
        data_dir=DataDir(Path("/data")),
        identities=Identities(),
        cluster=Cluster(Path("/data/postgres"), 7, "superuser"),
        issuer="http://127.0.0.1:8",
        origin_port=8787,
        ports=PORTS,
        replicas=replicas.parse("gateway=2"),
        nats=["nats"],
        coloured=False,
    )


def clustered(environment: Environment) -> Environment:
    ports = PORTS | {"nats-2": 30, "nats-3": 31}
    return dataclasses.replace(environment, nats=["nats", "nats-2", "nats-3"], ports=ports)


def holders(environment: Environment, secret: str) -> set[str]:
    return {
        name for name in SERVICES if secret in "\n".join(environment.service(name, name).values())
    }


def test_a_key_is_with_those_who_use_it(environment: Environment) -> None:
    keys = environment.identities
    assert holders(environment, keys.telemetry_master_key) == {"deployer", "telemetry-ingest"}
    assert holders(environment, keys.invoke_seed) == {"gateway"}
    assert holders(environment, keys.response_key) == {"gateway"}
    assert holders(environment, keys.platform_seed) == {"deployer"}
    assert holders(environment, keys.cloudflare_api_token) == {"deployer"}
    assert holders(environment, keys.lemonsqueezy_api_key) == {"billing"}
    assert holders(environment, keys.lemonsqueezy_webhook_secret) == {"billing"}
    assert holders(environment, keys.lemonsqueezy_checkout_key) == {"billing"}
    assert keys.lemonsqueezy_checkout_key not in environment.lemonsqueezy().values()
    assert holders(environment, "superuser") == set()
    for name in SERVICES:
        assert holders(environment, keys.nats_users[name]) == {name}
        assert holders(environment, keys.postgres_roles[name]) == {name}


def test_the_shell_keeps_its_credentials(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "of-the-person")
    assert "of-the-person" not in environment.edge().values()
    assert holders(environment, "of-the-person") == set()


def test_a_replica_has_its_own_address_and_its_service_s_identity(environment: Environment) -> None:
    first = environment.service("gateway", "gateway")
    second = environment.service("gateway", "gateway-2")
    assert (first["LISTEN"], second["LISTEN"]) == ("127.0.0.1:4", "127.0.0.1:5")
    assert first["OPS_LISTEN"] != second["OPS_LISTEN"]
    assert first["DATABASE_URL"] == second["DATABASE_URL"]
    assert environment.edge()["EDGE_UPSTREAM_GATEWAY"] == "http://127.0.0.1:4,http://127.0.0.1:5"
    assert json.loads(environment.edge()["EDGE_READINESS"]) == {
        environment.url(name): environment.url(f"{name}-ops") + "/readyz"
        for name in ("api", "gateway", "gateway-2", "telemetry-ingest")
    }


def test_every_service_has_all_nats_servers_and_who_makes_streams_their_number(
    environment: Environment,
) -> None:
    password = environment.identities.nats_users["gateway"]
    for cluster, ports in ((environment, (1,)), (clustered(environment), (1, 30, 31))):
        urls = [f"nats://gateway:{password}@127.0.0.1:{port}" for port in ports]
        assert cluster.service("gateway", "gateway")["NATS_URL"] == ",".join(urls)
        found = {name: cluster.service(name, name).get("NATS_REPLICAS") for name in SERVICES}
        made = str(len(ports))
        assert found == {"api": made, "deployer": made, "billing": made} | dict.fromkeys(
            ("gateway", "telemetry-ingest")
        )
    routes = environment.identities.nats_routes
    assert holders(clustered(environment), routes) == set()


def test_how_long_a_call_lasts_is_the_same_for_all_who_go_by_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGEST_CALL_S", "2")
    for name in ("gateway", "api", "billing"):
        assert environment.service(name, name)["LONGEST_CALL_S"] == "2"
