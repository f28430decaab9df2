"""`webhost up`: the whole stack, as its user meets it."""

import json
import os
import signal

import httpx
import psutil
from webhost_local.child import processes_marked
from webhost_local.supervisor import MARK

from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

NAMES = {
    *("nats", "postgres", "edge", "issuer", "lemonsqueezy", "api", "gateway", "gateway-2"),
    *("deployer", "telemetry-ingest", "billing"),
}


def test_the_stack_s_life() -> None:
    with running_stack("--replicas", "gateway=2") as stack:
        status = json.loads(stack.webhost("status", "--json").stdout)
        assert set(status) == {"origin", "processes", "natsUrl", "postgresDsn", "cloudflare"}
        assert {process["name"] for process in status["processes"]} == NAMES
        assert all(psutil.pid_exists(process["pid"]) for process in status["processes"])

        with client(stack) as http:
            assert http.get("/v1/me").json()["user"]["subject"] == "alice"
            agent = http.post("/v1/agents", json={"name": "kept"}).json()["agent"]

            before = stack.pids()
            os.kill(before["api"], signal.SIGKILL)
            assert stack.until_replaced(before) == {"api"}
            until(lambda: http.get("/v1/me").status_code == 200, "it to answer", seconds=20)

        assert stack.stop(signal.SIGINT) == 0
        assert processes_marked(MARK, str(stack.data_dir)) == []
        assert stack.webhost("status", check=False).returncode == 1

        stack.start()
        with client(stack) as http:
            found = http.get(f"/v1/agents/{agent['id']}")
            assert found.json()["agent"]["name"] == "kept"


def client(stack: Stack) -> httpx.Client:
    """A user who signed in with what the token command prints, at the origin that it names."""
    token = stack.webhost("token", "alice").stdout.strip()
    return httpx.Client(base_url=stack.origin, headers={"Authorization": f"Bearer {token}"})
