"""A wrong environment ends the process with one clear line."""

from pathlib import Path

import pytest
from webhost_kit.process.settings import EXIT_MISCONFIGURED, ServiceSettings, TierSettings, load

GOOD = {
    "WEBHOST_INSTALLATION_ID": "ins_1",
    "NATS_URL": "tls://u:hidden@127.0.0.1:4222",
    "DATABASE_URL": "postgresql://u:hidden@127.0.0.1/webhost?sslmode=verify-full",
    "OPS_LISTEN": "127.0.0.1:9000",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(
    capsys: pytest.CaptureFixture[str], kind: type[ServiceSettings] = ServiceSettings
) -> str:
    with pytest.raises(SystemExit) as ended:
        load(kind, "webhost-test")
    assert ended.value.code == EXIT_MISCONFIGURED
    return capsys.readouterr().err


@pytest.mark.accept("10")
@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.delenv(name)
    line = refusal(capsys)
    assert line == f"webhost-test: cannot start: missing {name}\n"
    environment.setenv(name, "")
    assert refusal(capsys) == line


@pytest.mark.parametrize("name", ["OPS_LISTEN", "LOG_LEVEL", "LOG_FORMAT"])
def test_an_invalid_variable_is_named_and_not_printed(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.setenv(name, "nowhere")
    line = refusal(capsys)
    assert name in line
    assert "nowhere" not in line
    assert line.count("\n") == 1


def test_a_level_may_be_written_in_capitals(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LOG_LEVEL", "WARNING")
    assert load(ServiceSettings, "webhost-test").log_level == "warning"


def test_crash_points_are_refused_outside_of_the_local_stack(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("WEBHOST_CRASH_FILE", "/nowhere")
    assert "WEBHOST_CRASH_FILE is for the local stack only" in refusal(capsys)
    environment.setenv("WEBHOST_LOCAL_STACK", "true")
    assert load(ServiceSettings, "webhost-test").webhost_local_stack


@pytest.mark.accept("4.secrets")
def test_settings_print_no_secret(environment: pytest.MonkeyPatch) -> None:
    assert "hidden" not in repr(load(ServiceSettings, "webhost-test"))


@pytest.mark.accept("6.D3")
@pytest.mark.parametrize(
    ("name", "value", "opt_out"),
    [
        ("NATS_URL", "nats://u:hidden@nats:4222", "ALLOW_PLAIN_NATS"),
        ("NATS_URL", "ws://u:hidden@nats:4222", "ALLOW_PLAIN_NATS"),
        ("NATS_URL", "tls://u:hidden@one:4222,nats://u:hidden@two:4222", "ALLOW_PLAIN_NATS"),
        ("DATABASE_URL", "postgresql://u:hidden@db/webhost", "ALLOW_PLAIN_POSTGRES"),
        (
            "DATABASE_URL",
            "postgresql://u:hidden@db/webhost?sslmode=require",
            "ALLOW_PLAIN_POSTGRES",
        ),
        ("DATABASE_URL", "host=/run,db user=u password=hidden", "ALLOW_PLAIN_POSTGRES"),
        ("DATABASE_URL", "hostaddr=10.0.0.1 user=u password=hidden", "ALLOW_PLAIN_POSTGRES"),
    ],
)
def test_what_is_not_encrypted_is_refused_unless_it_is_allowed(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    opt_out: str,
) -> None:
    environment.setenv(name, value)
    line = refusal(capsys)
    assert name in line
    assert opt_out in line
    assert "hidden" not in line
    assert line.count("\n") == 1
    environment.setenv(opt_out, "true")
    assert load(ServiceSettings, "webhost-test").opt_outs() == [opt_out]
    environment.delenv(opt_out)
    environment.setenv("WEBHOST_LOCAL_STACK", "true")
    assert load(ServiceSettings, "webhost-test").opt_outs() == []


@pytest.mark.accept("6.D3")
@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hidden@db/webhost?sslmode=verify-full&sslrootcert=system",
        "postgresql:///webhost?host=/run/postgresql",
        "dbname=webhost user=u",
    ],
)
def test_a_verified_server_and_this_machines_socket_need_no_opt_out(
    environment: pytest.MonkeyPatch, dsn: str
) -> None:
    environment.setenv("DATABASE_URL", dsn)
    assert load(ServiceSettings, "webhost-test").opt_outs() == []


@pytest.mark.parametrize("urls", ["tls://u:p@one:4222, tls://u:p@two:4222,", ","])
def test_a_cluster_is_named_by_each_of_its_servers(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], urls: str
) -> None:
    environment.setenv("NATS_URL", urls)
    if urls == ",":
        assert "NATS_URL names no server" in refusal(capsys)
    else:
        load(ServiceSettings, "webhost-test")


@pytest.mark.accept("6.D3")
def test_what_is_no_dsn_is_refused_and_not_printed(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("DATABASE_URL", "u:hidden@db")
    line = refusal(capsys)
    assert "not a Postgres DSN" in line
    assert "hidden" not in line


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"[free]\nrequests 3", "(at line 2, column 10)"),
        (b"[pro]\nlogDays = 'x'", "tier 'free' is missing"),
        (b"[free]\nlogDays = 3", "[free]: Object missing required field `requestsPerMinute`"),
        (b"[free]\nlogDays = 'x'", "[free]: Expected `int`, got `str` - at `$.logDays`"),
        (b"[free]\nlogDay = 3", "[free]: Object contains unknown field `logDay`"),
        (b"free = 3", "[free]: Expected `object`, got `int`"),
        (b"\xff", "can't decode byte"),
    ],
)
def test_a_bad_tiers_file_is_named_with_the_place(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: bytes,
    named: str,
) -> None:
    file = tmp_path / "tiers.toml"
    file.write_bytes(text)
    environment.setenv("WEBHOST_TIERS_FILE", str(file))
    line = refusal(capsys, TierSettings)
    assert line.startswith(f"webhost-test: cannot start: WEBHOST_TIERS_FILE: tiers file {file}: ")
    assert named in line
    assert line.count("\n") == 1
