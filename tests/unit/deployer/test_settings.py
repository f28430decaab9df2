"""The deployer refuses to start in an environment that cannot work, and says why."""

import base64

import pytest
from webhost_deployer.cloudflare.addresses import CustomDomain, WorkersDev
from webhost_deployer.settings import Settings
from webhost_kit.process.settings import load

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
GOOD = {
    "WEBHOST_INSTALLATION_ID": "ins_1",
    "NATS_URL": "tls://127.0.0.1:4222",
    "DATABASE_URL": "postgresql://127.0.0.1/deployer?sslmode=verify-full",
    "OPS_LISTEN": "127.0.0.1:9000",
    "CLOUDFLARE_ACCOUNT_ID": "acc",
    "CLOUDFLARE_API_TOKEN": "token-to-hide",
    "CLOUDFLARE_WORKERS_DEV_SUBDOMAIN": "me",
    "CONTROL_PLANE_TELEMETRY_REPORT_URL": "https://webhost.example/v1/telemetry/report",
    "TELEMETRY_MASTER_KEYS": f"1:{KEY}",
    "INVOKE_PUBLIC_KEYS": f"i1:{KEY}",
    "PLATFORM_PRIVATE_KEYS": f"p1:{KEY}",
    "SECRETS_PRIVATE_KEYS": f"s1:{KEY}",
}
ROUTED = {"CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "w.example", "CLOUDFLARE_ZONE_ID": "zone"}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(name, value)
    return load(Settings, "webhost-deployer")


@pytest.mark.accept("8.routing")
def test_both_ways_of_routing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(monkeypatch).routing == WorkersDev("me")
    assert loaded(monkeypatch, **ROUTED).routing == CustomDomain("w.example", "zone")
    assert "token-to-hide" not in repr(loaded(monkeypatch))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"CLOUDFLARE_DISPATCH_NAMESPACE": "b", "CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE": "a"},
            "exclude each other",
        ),
        ({"CLOUDFLARE_DISPATCH_NAMESPACE": "my space"}, "CLOUDFLARE_DISPATCH_NAMESPACE"),
        ({"AGENT_EGRESS": '{"default": []}'}, "AGENT_EGRESS needs CLOUDFLARE_DISPATCH_NAMESPACE"),
        ({"CLOUDFLARE_API_TOKEN": None}, "missing CLOUDFLARE_API_TOKEN"),
        ({"CLOUDFLARE_ZONE_ID": "zone"}, "set both or neither"),
        ({"CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "w.example"}, "set both or neither"),
        ({"CLOUDFLARE_WORKERS_DEV_SUBDOMAIN": None}, "CLOUDFLARE_WORKERS_DEV_SUBDOMAIN is needed"),
        (
            {"CONTROL_PLANE_TELEMETRY_REPORT_URL": "http://webhost.example"},
            "CONTROL_PLANE_TELEMETRY_REPORT_URL must be an https address",
        ),
        ({"WORKERS_CONNECT_TO": "127.0.0.1:8787"}, "WORKERS_CONNECT_TO"),
        ({"TELEMETRY_MASTER_KEYS": "1:short"}, "TELEMETRY_MASTER_KEYS must be"),
        ({"SECRETS_PRIVATE_KEYS": "s1:short"}, "SECRETS_PRIVATE_KEYS must be"),
    ],
)
@pytest.mark.accept("10")
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    named: str,
) -> None:
    for name in changes:
        monkeypatch.delenv(name, raising=False)
    for name, value in (GOOD | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(Settings, "webhost-deployer")
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1


@pytest.mark.accept("6.D3")
def test_workers_at_the_public_host_are_refused_unless_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ROUTED | {"CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "Webhost.example"}
    with pytest.raises(SystemExit):
        loaded(monkeypatch, **same)
    line = capsys.readouterr().err
    assert "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN is the host of" in line
    assert line.count("\n") == 1
    allowed = loaded(monkeypatch, **same, ALLOW_WORKERS_ON_PUBLIC_ORIGIN="true")
    assert allowed.opt_outs() == ["ALLOW_WORKERS_ON_PUBLIC_ORIGIN"]


@pytest.mark.accept("6.C2.scripts")
def test_how_many_deployments_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(monkeypatch).most_deployments == 249
    assert loaded(monkeypatch, CLOUDFLARE_MAX_SCRIPTS="21").most_deployments == 10
    inside = {"CLOUDFLARE_DISPATCH_NAMESPACE": "customers"}
    assert loaded(monkeypatch, **inside).most_deployments == 18
    monkeypatch.delenv("CLOUDFLARE_MAX_SCRIPTS")
    assert loaded(monkeypatch, **inside).most_deployments is None
