"""The Prometheus beside docker-compose.yml finds every service, as confined as what it watches."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from webhost_local.installation.services import SERVICES

from tests.unit.deploy.test_compose import CONTAINERS, ROOT

FOLDER = ROOT / "deploy/observability/prometheus"
ADDED: dict[str, Any] = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PROMETHEUS: dict[str, Any] = ADDED["services"]["prometheus"]


def test_it_finds_each_process_of_each_service_at_its_operators_port() -> None:
    found = {job["job_name"]: job["dns_sd_configs"] for job in CONFIG["scrape_configs"]}
    assert found == {
        f"webhost-{service}": [
            {
                "names": [service],
                "type": "A",
                "port": int(CONTAINERS[service]["environment"]["OPS_LISTEN"].rpartition(":")[2]),
                "refresh_interval": "15s",
            }
        ]
        for service in SERVICES
    }
    shared = set(PROMETHEUS["networks"])
    assert all(shared & set(CONTAINERS[service]["networks"]) for service in SERVICES)


def test_it_is_confined_and_published_on_loopback_alone() -> None:
    assert ADDED["services"].keys() == {"prometheus"}
    assert not ADDED["services"].keys() & CONTAINERS.keys()
    for name in ("read_only", "cap_drop", "security_opt", "pids_limit", "logging", "restart"):
        assert PROMETHEUS[name] == CONTAINERS["api"][name], name
    assert PROMETHEUS["mem_limit"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", PROMETHEUS["user"])
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", PROMETHEUS["image"])
    assert PROMETHEUS["ports"] == ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"]
    assert PROMETHEUS["healthcheck"]["test"][0] == "CMD"
    # Published from a network with a way out: the services' data has none.
    assert PROMETHEUS["networks"] == ["data", "watching"]
    assert ADDED["networks"] == {"watching": None}


def test_it_reads_the_rules_where_they_are_mounted() -> None:
    mounts = dict(it.removesuffix(":ro").split(":") for it in PROMETHEUS["volumes"])
    [config] = [it for it in PROMETHEUS["command"] if it.startswith("--config.file=")]
    inside = Path(config.partition("=")[2])
    outside = ROOT / "deploy/observability"
    assert mounts[f"./{outside.relative_to(ROOT)}"] == str(inside.parents[1])
    assert outside / inside.relative_to(inside.parents[1]) == FOLDER / "compose.yaml"
    assert f"--storage.tsdb.path={mounts['prometheus']}" in PROMETHEUS["command"]
    rules = sorted((FOLDER / file).resolve() for file in CONFIG["rule_files"])
    assert rules == sorted(outside.glob("*.yaml"))
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # of Debian's package `prometheus`
    run = subprocess.run(
        [promtool, "check", "config", FOLDER / "compose.yaml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
