"""`python -m deploy secrets`: what it is told, what it keeps, and when it ends."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from webhost_local.installation.services import SERVICES

from deploy.rendering import Object, pod_of, workloads
from deploy.secrets import options, places, secrets, values_of
from tests.unit.deploy.overlays import rendered


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy", "secrets", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def as_kubectl_gets(document: dict[str, Any]) -> dict[str, Any]:
    items = [
        {
            "metadata": it["metadata"],
            "data": {
                key: base64.b64encode(value.encode()).decode()
                for key, value in it["stringData"].items()
            },
        }
        for it in document["items"]
    ]
    return {"kind": "List", "items": items}


def test_a_second_run_keeps_what_is_there(tmp_path: Path) -> None:
    existing = tmp_path / "existing.json"
    first = run(CLOUDFLARE_API_TOKEN="given")
    assert first.stderr == ""
    document = as_kubectl_gets(json.loads(first.stdout))
    document["items"] = [
        it for it in document["items"] if it["metadata"]["name"] != "webhost-role-api"
    ]
    existing.write_text(json.dumps(document))

    second = run("--existing", str(existing), "--gateway-postgres", "other:5432")

    before = values_of(json.loads(first.stdout))
    after = values_of(json.loads(second.stdout))
    assert before.keys() == after.keys()
    differ = {
        (name, key)
        for name, values in after.items()
        for key, value in values.items()
        if before[name][key] != value
    }
    assert differ == {
        # What was lost is another one, wherever it is written.
        ("webhost-role-api", "password"),
        ("webhost-api", "DATABASE_URL"),
        ("webhost-gateway", "DATABASE_URL"),
        ("webhost-gateway-migrations", "MIGRATIONS_DATABASE_URL"),
    }
    assert after["webhost-role-api"]["password"] in after["webhost-api"]["DATABASE_URL"]
    password = before["webhost-role-gateway"]["password"]
    assert f":{password}@other:5432/" in after["webhost-gateway"]["DATABASE_URL"]


def test_keys_are_not_made_beside_others(tmp_path: Path) -> None:
    existing = tmp_path / "existing.json"
    existing.write_text(json.dumps({"items": []}))
    ended = run("--existing", str(existing))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "missing in" in ended.stderr
    assert "webhost-deployer-keys" in ended.stderr


def test_what_is_no_address_is_refused() -> None:
    ended = run("--postgres", "db.example.com")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is not HOST:PORT" in ended.stderr


def test_a_missing_token_is_said_where_no_secrets_are() -> None:
    assert "CLOUDFLARE_API_TOKEN" in run().stderr


def test_a_reader_that_goes_away() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deploy", "secrets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "not all Secrets are made" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("production", []),
        (
            "production, the gateway's database apart",
            ["--gateway-postgres", "webhost-gateway-postgres-rw:5432"],
        ),
        ("production, Postgres elsewhere", ["--postgres", "db.example.com:5432"]),
    ],
)
def test_the_authority_of_postgres_is_mounted(variant: str, arguments: list[str]) -> None:
    made = values_of({"items": list(secrets(places(options().parse_args(arguments))))})
    pods = {
        it["metadata"]["name"].removesuffix("-0-1-0"): it for it in workloads(rendered(variant))
    }
    for service in SERVICES:
        dsn = made[f"webhost-{service}"]["DATABASE_URL"]
        file = dsn.rpartition("sslrootcert=/etc/webhost/trust/")[2]
        assert file in _trusted(pods[f"webhost-{service}"])
        assert file in _trusted(pods[f"webhost-migrate-{service}"])


def _trusted(workload: Object) -> set[str]:
    [trust] = [it["projected"] for it in pod_of(workload)["volumes"] if it["name"] == "trust"]
    found = {"ca.crt"}
    for source in trust["sources"]:
        found |= {item["path"] for item in source.get("secret", {}).get("items", ())}
    return found
