"""What each service says on the operators' port, and that the public origin does not route it."""

import threading
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from webhost_local.installation.services import SERVICES

from tests.support.stack import Stack

NEEDS = {
    "api": {"bus", "database", "streams", "issuer", "relay", "reactor"},
    "gateway": {"bus", "database", "streams", "issuer", "routes", "totals", "lease"},
    "deployer": {"bus", "database", "streams", "relay"},
    "telemetry-ingest": {"bus", "database", "streams", "projection"},
    "billing": {"bus", "database", "streams", "relay", "projection"},
}
"""The least that each must name."""
DEATHS = 5


def ports(stack: Stack) -> dict[str, str]:
    processes = {p["name"]: p.get("opsUrl") for p in stack.status()["processes"]}
    return {name: processes[name] for name in SERVICES}


@pytest.mark.accept("7.operations")
def test_every_service_lives_is_ready_by_name_and_has_metrics(sturdy_stack: Stack) -> None:
    assert NEEDS.keys() == set(SERVICES)
    for name, url in ports(sturdy_stack).items():
        with httpx.Client(base_url=url, timeout=10) as http:
            assert http.get("/livez").json() == {"status": "ok"}
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "ok"), ready.text
            checks = ready.json()["checks"]
            assert checks.keys() >= NEEDS[name], (name, checks)
            assert all(said.startswith("ok") for said in checks.values())
            metrics = http.get("/metrics")
            assert metrics.headers["Content-Type"].startswith("text/plain")
            families = {family.name for family in text_string_to_metric_families(metrics.text)}
            assert "process_resident_memory_bytes" in families
            assert any(family.startswith("webhost_") for family in families), families
            assert http.get("/other").status_code == 404
    for path in ("/livez", "/readyz", "/metrics"):
        public = httpx.get(f"{sturdy_stack.origin}{path}", timeout=10)
        assert public.status_code == 404
        assert public.json()["error"]["code"] == "NOT_FOUND"


@pytest.mark.accept("7.operations")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("away", "named"), [("nats", "bus"), ("postgres", "database")])
def test_a_service_says_what_is_away_and_lives_on(
    sturdy_stack: Stack, away: str, named: str
) -> None:
    seen: dict[str, Any] = {}
    alive: dict[str, int] = {}
    ended = threading.Event()

    def watch(name: str, url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as http:
            while not ended.is_set():
                ready = http.get("/readyz")
                checks = ready.json()["checks"]
                if ready.status_code == 503 and not checks[named].startswith("ok"):
                    seen[name] = checks
                alive[name] = http.get("/livez").status_code
                ended.wait(0.02)

    watchers = [threading.Thread(target=watch, args=each) for each in ports(sturdy_stack).items()]
    for watcher in watchers:
        watcher.start()
    try:
        # It is back within a second: a look may come too late.
        for _ in range(DEATHS):
            # Of a cluster's servers, one alone is not missed.
            sturdy_stack.kill(*sturdy_stack.all_of(away))
            if seen.keys() == set(SERVICES):
                break
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
    assert seen.keys() == set(SERVICES)
    assert set(alive.values()) == {200}
