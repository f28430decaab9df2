"""docker-compose.yml and the images, as far as they can be checked without a daemon."""

import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from webhost_kit.process.reference import settings_of, variables
from webhost_kit.process.settings import CallTimeoutSettings
from webhost_local.compose import variables as known
from webhost_local.compose.values import local_values, secrets_of
from webhost_local.installation.identities import Identities
from webhost_local.installation.services import SERVICES

from deploy.policy_check import needed_s
from tests.support import origin
from tests.support.compose import KINDS

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = [
    ROOT / "Dockerfile",
    ROOT / "deploy/origin/Dockerfile",
    ROOT / "deploy/nats/Dockerfile",
]
ONE_SHOTS = ("database", "cli")
_REFERENCE = re.compile(r"\$\{([A-Z0-9_]+)")


def test_the_services_are_those_of_the_tree() -> None:
    in_tree = {folder.parent.name for folder in ROOT.glob("services/*/pyproject.toml")}
    assert set(SERVICES) == in_tree
    built = {
        container["build"]["args"]["SERVICE"]
        for container in CONTAINERS.values()
        if isinstance(container.get("build"), dict) and "args" in container["build"]
    }
    assert built == in_tree | {"cli", "local"}
    said = (ROOT / "Dockerfile").read_text().partition("ARG")[0]
    assert all(re.search(rf"\b{service}\b", said) for service in in_tree)


def test_every_container_that_keeps_running_is_killed_by_a_test() -> None:
    assert sorted(KINDS) == sorted(CONTAINERS.keys() - ONE_SHOTS)


def test_no_image_of_a_stranger_is_pulled_for_one_of_ours() -> None:
    for name, one in CONTAINERS.items():
        if name != "postgres":
            image = one["image"].removeprefix("${WEBHOST_REGISTRY:-}")
            assert re.fullmatch(r"webhost-[a-z-]+:\$\{WEBHOST_TAG:-local\}", image), name
            assert one["pull_policy"] == "${WEBHOST_PULL_POLICY:-never}", name


def test_all_images_are_built_as_compose_builds_them() -> None:
    given = ("WEBHOST_REGISTRY=host/team/", "WEBHOST_TAG=2")
    run = subprocess.run(
        ["make", "--silent", "--dry-run", "images", *given],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    words = run.stdout.replace("\\\n", " ")
    made = {tuple(one.split()) for one in words.split("&&") if one.split() != ["true"]}
    assert made == {
        ("docker", "build", "--tag", _image(one), *_build_options(one["build"]))
        for one in CONTAINERS.values()
        if "build" in one
    }
    assert {_image(one) for one in CONTAINERS.values()} == {
        "postgres:18",
        *(words[3] for words in made),
    }


def _image(container: dict[str, Any]) -> str:
    image: str = container["image"].replace("${WEBHOST_REGISTRY:-}", "host/team/")
    return image.replace("${WEBHOST_TAG:-local}", "2")


def _build_options(build: str | dict[str, Any]) -> list[str]:
    if isinstance(build, str):
        return [build]
    context = build["context"]
    file = ["--file", f"{context}/{build['dockerfile']}"] if "dockerfile" in build else []
    arguments = [f"--build-arg {name}={value}" for name, value in build.get("args", {}).items()]
    return [*file, *" ".join(arguments).split(), context]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_given_its_settings_and_nothing_else(service: str) -> None:
    settings = {variable.name for variable in variables(settings_of(service))}
    given = CONTAINERS[service]["environment"].keys()
    assert given - settings == set()
    assert settings - given == settings & known.LEFT_OUT.keys()
    for variable in known.passed(service):
        expected = f"${{{known.name_of(service, variable.name)}:-}}"
        assert CONTAINERS[service]["environment"][variable.name] == expected


@pytest.mark.parametrize("service", SERVICES)
def test_how_many_of_a_service_run_stays_in_the_environment(service: str) -> None:
    assert CONTAINERS[service]["scale"] == f"${{{known.prefix(service)}_REPLICAS:-1}}"


def test_what_runs_on_this_machine_says_who_the_client_is() -> None:
    defaults = {one.name: one.value or "" for one in known.own()}
    subnet = ip_network(defaults["FRONT_SUBNET"])
    assert ip_address(defaults["ORIGIN_TRUSTED_PROXY"]) == next(subnet.hosts())
    assert f"${{FRONT_SUBNET:-{subnet}}}" in str(COMPOSE["networks"]["front"])
    given = CONTAINERS["origin"]["environment"]["ORIGIN_TRUSTED_PROXY"]
    assert given == f"${{ORIGIN_TRUSTED_PROXY:-{next(subnet.hosts())}}}"


def test_a_client_has_as_many_requests_everywhere() -> None:
    defaults = {one.name: one.value or "" for one in known.own()}
    name = "ORIGIN_CLIENT_CONNECTIONS"
    most = defaults[name]
    assert origin.defaults()[name] == most
    assert CONTAINERS["origin"]["environment"][name] == f"${{{name}:-{most}}}"
    for overlay in ("local", "production"):
        config = ROOT / f"deploy/k8s/overlays/{overlay}/config/origin.env"
        assert f"\n{name}={most}\n" in config.read_text()
    # And one client has a small part of the places, of which a call takes two.
    template = origin.TEMPLATE.read_text()
    [connections] = re.findall(r"worker_connections (\d+);", template)
    [files] = re.findall(r"worker_rlimit_nofile (\d+);", template)
    assert 16 * int(most) <= int(connections) // 2
    assert int(connections) < int(files) <= CONTAINERS["origin"]["ulimits"]["nofile"]


def test_what_is_left_out_are_settings() -> None:
    names = {variable.name for service in SERVICES for variable in variables(settings_of(service))}
    assert known.LEFT_OUT.keys() <= names
    assert set(known.SET_BY_FILE) <= names
    assert set(known.PER_SERVICE) <= names


def test_every_variable_of_the_file_is_documented_and_every_documented_one_is_used() -> None:
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(_REFERENCE.findall(text))
    # Read by compose itself; and for whoever calls the API.
    assert documented == used | {"COMPOSE_PROJECT_NAME", "OPERATOR_TOKEN"}


def test_no_container_starts_without_its_passwords() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    named = re.findall(r"\$\{\w*PASSWORD\w*(.*?)\}", text)
    assert named
    assert {*named} == {":?run make compose-env"}


def test_no_secret_has_a_value_in_the_repository() -> None:
    made = secrets_of(Identities())
    example = (ROOT / ".env.example").read_text()
    for name in made:
        assert re.search(rf"^#{name}=$", example, re.MULTILINE), name
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.findall(r"\$\{\w*(?:PASSWORD|TOKEN|KEYS?|SECRETS?)\w*:-[^}]", text)


@pytest.mark.parametrize("service", SERVICES)
def test_the_made_environment_is_one_that_a_service_starts_with(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = Identities()
    values = secrets_of(identities) | local_values(identities)
    for name, text in CONTAINERS[service]["environment"].items():
        filled = re.sub(
            r"\$\{([A-Z0-9_]+)(?::[-?]([^}]*))?\}",
            lambda found: values.get(found[1], found[2] or ""),
            str(text),
        )
        monkeypatch.setenv(name, filled)
    settings = settings_of(service)()
    assert settings.webhost_installation_id == identities.installation_id
    assert settings.webhost_local_stack


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_confined(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert container["restart"] in ("unless-stopped", "on-failure", "no")
    assert "privileged" not in container
    assert not any(str(volume).startswith(("/", ".")) for volume in container.get("volumes", ()))


@pytest.mark.parametrize("name", [*SERVICES, "origin"])
def test_a_container_has_time_for_its_longest_call(name: str) -> None:
    defaults = CallTimeoutSettings.model_fields
    needed = needed_s(f"webhost-{name}", defaults["longest_call_s"].default)
    given = int(CONTAINERS[name]["stop_grace_period"].removesuffix("s"))
    assert given >= defaults["drain_s"].default + needed


def test_an_operators_command_can_write_a_file_that_stays() -> None:
    assert "operator:/data" in CONTAINERS["cli"]["volumes"]
    assert "operator" in COMPOSE["volumes"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_healthy_or_ends(name: str) -> None:
    container = CONTAINERS[name]
    if name in ONE_SHOTS:
        assert container["healthcheck"] == {"disable": True}
    elif name in SERVICES:
        assert "healthcheck" not in container  # the image's own
    else:
        assert container["healthcheck"]["test"][0] == "CMD"


def test_only_the_origin_and_local_stand_ins_are_published_and_on_loopback() -> None:
    published = {name: one["ports"] for name, one in CONTAINERS.items() if "ports" in one}
    assert published.keys() == {"origin", "issuer", "lemonsqueezy"}
    assert CONTAINERS["issuer"]["profiles"] == CONTAINERS["lemonsqueezy"]["profiles"] == ["local"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_origin_does_not_reach_the_data_and_the_data_has_no_way_out() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    on_data = {name for name, one in CONTAINERS.items() if "data" in one["networks"]}
    assert on_data == {*SERVICES, "nats", "postgres", "database", "cli"}
    assert CONTAINERS["nats"]["networks"] == CONTAINERS["postgres"]["networks"] == ["data"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_image_is_for_a_user_by_number_with_a_health_check(file: Path) -> None:
    last_stage = file.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last_stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\\\n +CMD \[", last_stage, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIG\w+$", last_stage, re.MULTILINE)
    assert "LABEL org.opencontainers.image.title=" in last_stage
    for instruction in ("ENTRYPOINT", "CMD"):
        for command in re.findall(rf"^ *{instruction} (.*)$", last_stage, re.MULTILINE):
            assert command.startswith("["), f"{instruction} needs no shell"


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_base_images_have_a_version_and_no_host(file: Path) -> None:
    text = file.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        if image not in stages:
            assert re.fullmatch(r"[a-z]+:[\w.-]*\d[\w.-]*", image), image


def test_nothing_secret_can_get_into_a_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert "**/.env*" in rules
    assert "**/.webhost*" in rules


def test_the_bus_is_as_durable_as_the_local_one(tmp_path: Path) -> None:
    for file in ("nats/nats.conf", "k8s/base/nats/accounts.conf"):  # as the image has them
        shutil.copy(ROOT / "deploy" / file, tmp_path)
    assert "sync_interval: always" in (tmp_path / "nats.conf").read_text()
    passwords = {**CONTAINERS["nats"]["environment"]}
    assert (passwords.pop("GOMEMLIMIT"), CONTAINERS["nats"]["mem_limit"]) == ("900MiB", "1g")
    assert set(re.findall(r"\$(PASSWORD_OF_\w+)", (tmp_path / "accounts.conf").read_text())) == (
        passwords.keys()
    )
    server = Path(sys.executable).with_name("nats-server")
    # As a number, or with a sign, it would not be a password without the quotes.
    environment = dict.fromkeys(passwords, '"-12"')
    checked = subprocess.run(
        [server, "--config", tmp_path / "nats.conf", "-t"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_nginx_takes_the_origins_configuration(tmp_path: Path) -> None:
    values = origin.defaults()
    assert set(re.findall(r"\$\{(\w+)\}", origin.TEMPLATE.read_text())) == values.keys()
    assert set(CONTAINERS["origin"]["environment"]) <= values.keys()
    assert origin.origin_check(tmp_path) == ""


def test_the_origin_routes_as_the_local_one_does() -> None:
    template = origin.TEMPLATE.read_text()
    in_nginx = re.findall(r"location (/v1/\S*) \{[^}]*\bproxy_pass http://\$(\w+);\s*\}", template)
    source = (ROOT / "local/src/webhost_local/edge/origin.py").read_text()
    upstreams = re.findall(r'\("(/v1/[^"]*)", (.*)\),', source)
    local = [
        (prefix, next(name for name in ("gateway", "telemetry", "api") if name in replicas))
        for prefix, replicas in upstreams
    ]
    assert in_nginx == local
    assert "proxy_buffering off;" in template
    assert "proxy_request_buffering off;" in template
