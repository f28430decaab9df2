"""Who reaches whom: what the NetworkPolicies of an installation come to, all together."""

from ipaddress import ip_address, ip_network

import pytest

from deploy.reference_check import selects
from deploy.rendering import Object, of_kind, template_of, workloads
from tests.unit.deploy.overlays import rendered

SERVICES = ("api", "gateway", "deployer", "telemetry-ingest", "billing")
PUBLIC = ("api", "gateway", "telemetry-ingest")
POSTGRES = {"cnpg.io/cluster": "webhost-postgres"}
GATEWAYS_POSTGRES = {"cnpg.io/cluster": "webhost-gateway-postgres"}
CLOUDFLARE = "104.16.132.229"
ELSEWHERE = "8.8.8.8"
OF_POSTGRES = "203.0.113.7"
INSIDE = (
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "fd00::1",
    "fe80::1",
)


class Network:
    """The policies of one variant, and the Pods that they are for, by name."""

    def __init__(self, variant: str) -> None:
        objects = rendered(variant)
        self._policies = [it["spec"] for it in of_kind(objects, "NetworkPolicy")]
        self.pods: dict[str, dict[str, str]] = {
            labels["app.kubernetes.io/name"].removeprefix("webhost-"): labels
            for labels in (template_of(it)["metadata"]["labels"] for it in workloads(objects))
        }
        self.pods |= {"postgres": POSTGRES, "gateway-postgres": GATEWAYS_POSTGRES}

    def connects(self, sender: str, receiver: str, port: int | str) -> bool:
        """Whether one Pod may connect to another: both sides have to allow it."""
        pods = self.pods
        return self._allows("egress", sender, port, pods[receiver]) and self._allows(
            "ingress", receiver, port, pods[sender]
        )

    def leaves(self, sender: str, address: str, port: int) -> bool:
        """Whether a Pod may connect to this address."""
        return self._allows("egress", sender, port, address)

    def _allows(self, way: str, pod: str, port: int | str, peer: dict[str, str] | str) -> bool:
        return any(
            _port(port, rule) and _peer(peer, rule["from" if way == "ingress" else "to"])
            for policy in self._policies
            if selects(policy["podSelector"], self.pods[pod])
            for rule in policy.get(way, ())
            if ("from" if way == "ingress" else "to") in rule
        )


def _port(port: int | str, rule: Object) -> bool:
    return any(it.get("protocol", "TCP") == "TCP" and it["port"] == port for it in rule["ports"])


def _peer(peer: dict[str, str] | str, peers: list[Object]) -> bool:
    """A peer within the namespace, or an address."""
    if isinstance(peer, str):
        blocks = [it["ipBlock"] for it in peers if "ipBlock" in it]
        return any(
            ip_address(peer) in ip_network(block["cidr"])
            and not any(ip_address(peer) in ip_network(it) for it in block.get("except", ()))
            for block in blocks
        )
    return any(
        selects(it["podSelector"], peer)
        for it in peers
        if "podSelector" in it and "namespaceSelector" not in it
    )


@pytest.fixture(scope="module")
def network() -> Network:
    return Network("production")


def test_the_origin_alone_reaches_the_three_that_answer_it(network: Network) -> None:
    for sender in network.pods:
        for service in SERVICES:
            allowed = sender == "origin" and service in PUBLIC
            assert network.connects(sender, service, "http") == allowed, (sender, service)


def test_nobody_here_reaches_an_operators_port(network: Network) -> None:
    for sender in network.pods:
        for service in SERVICES:
            assert not network.connects(sender, service, "ops")


def test_the_five_services_alone_reach_the_bus(network: Network) -> None:
    for sender in network.pods:
        assert network.connects(sender, "nats", "nats") == (sender in SERVICES)
        assert network.connects(sender, "nats", "routes") == (sender == "nats")
        assert not network.connects(sender, "nats", "monitor")


def test_services_and_their_migrations_alone_reach_postgres(network: Network) -> None:
    migrations = {f"migrate-{service}" for service in SERVICES}
    for sender in network.pods:
        allowed = sender in {*SERVICES, *migrations, "postgres"}
        assert network.connects(sender, "postgres", 5432) == allowed, sender


def test_the_gateway_alone_reaches_a_database_of_its_own() -> None:
    network = Network("production, the gateway's database apart")
    own = {"gateway", "migrate-gateway", "gateway-postgres"}
    for sender in network.pods:
        assert network.connects(sender, "gateway-postgres", 5432) == (sender in own), sender
        reaches_nats = sender in (*SERVICES, "operator")
        assert network.connects(sender, "nats", "nats") == reaches_nats, sender
        others = {f"{kind}{it}" for it in SERVICES for kind in ("", "migrate-")} - own
        assert network.connects(sender, "postgres", 5432) == (sender in {*others, "postgres"})


@pytest.mark.parametrize("overlay", ["production", "local"])
def test_who_leaves_the_cluster(overlay: str) -> None:
    """To Cloudflare: gateway and deployer. To issuer and LemonSqueezy, so anywhere: three."""
    network = Network(overlay)
    for sender in network.pods.keys() - {"postgres", "gateway-postgres"}:
        anywhere = sender in ("api", "gateway", "billing")
        assert network.leaves(sender, ELSEWHERE, 443) == anywhere, sender
        assert network.leaves(sender, CLOUDFLARE, 443) == (anywhere or sender == "deployer")
        assert not network.leaves(sender, CLOUDFLARE, 80)
        for address in INSIDE:
            assert not network.leaves(sender, address, 443), (sender, address)


def test_postgres_elsewhere_is_reached_at_its_address() -> None:
    network = Network("production, Postgres elsewhere")
    for sender in network.pods.keys() - {"postgres", "gateway-postgres"}:
        allowed = sender in SERVICES or sender.startswith("migrate-")
        assert network.leaves(sender, OF_POSTGRES, 5432) == allowed, sender
        assert not network.leaves(sender, ELSEWHERE, 5432)
