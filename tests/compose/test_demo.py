"""docker-compose.yml with a real daemon: the demo, and every kind of container killed on the way.

Run by `make compose-test`; not a part of `make test`, which needs no Docker.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from webhost_cli import oidc
from webhost_cli.demo import books, life
from webhost_cli.demo.calls import Calls
from webhost_cli.demo.command import sign_in
from webhost_cli.demo.narrator import Narrator
from webhost_cli.login import CLIENT_ID
from webhost_kit.clock import now_ms

from tests.support.caller import Caller
from tests.support.compose import KINDS, ComposeStack, running_compose
from tests.support.faults import Death
from tests.support.retrying import RetryingClient
from tests.support.traffic import PROMPT, Traffic

pytestmark = pytest.mark.timeout(3600)
_PACE_S = 2.5
"""Slow enough for the calls to last until every container was killed."""
_SOON_MS = 5_000
_FAILURES = 500
"""More than an address may have in a minute, when they come at once."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    with running_compose(tmp_path_factory.mktemp("compose")) as stack:
        yield stack


@contextmanager
def user(stack: ComposeStack, subject: str) -> Iterator[RetryingClient]:
    tokens = oidc.sign_in_as(stack.issuer, CLIENT_ID, subject)
    caller = Caller(stack.origin, tokens.access_token)
    with caller.http:
        yield RetryingClient(caller)


def test_the_demo_with_every_kind_of_container_killed_on_the_way(stack: ComposeStack) -> None:
    narrator = Narrator(Console(force_terminal=False))
    with (
        sign_in(narrator, stack.issuer, stack.origin) as api,
        user(stack, "traffic") as other,
    ):
        calls = Calls(api, narrator)
        agent = life.live(narrator, calls)

        called = other.post("/v1/agents", name="called")["agent"]
        assert other.deploy(called["id"])["status"] == "active"
        text = f"You said: {PROMPT}"
        traffic = Traffic(other, called["id"], pace_s=_PACE_S)
        traffic.until_answered(text, seconds=30)
        deaths: list[Death] = []
        with traffic:
            for kind in KINDS:
                at_ms = now_ms()
                stack.kill(kind)
                stack.until_healthy()
                deaths.append(Death(frozenset({kind}), at_ms, now_ms()))
                print(f"{kind} killed, all healthy {deaths[-1].back_ms - at_ms} ms later")
            traffic.until_answered(text, seconds=60)
        print(f"{len(traffic.answered)} calls answered, {len(traffic.unclear)} unclear")
        assert len(traffic.answered) > len(KINDS)
        for death in deaths:
            until_ms = death.back_ms + _SOON_MS
            assert any(death.at_ms <= at_ms <= until_ms for at_ms in traffic.called_ms), death

        books.check_usage(narrator, calls, stack.status)
        books.delete(narrator, calls, agent, stack.status)
        traffic.check_usage(possible_texts=[text], deaths=deaths)
    print(f"{narrator.steps} steps, {narrator.checks} checks hold, {narrator.elapsed_s:.0f} s")


def test_the_origin_has_no_way_to_what_is_for_operators(stack: ComposeStack) -> None:
    for path in ("/metrics", "/readyz", "/livez", "/v1/../metrics", "/v1/..%2freadyz"):
        answer = httpx.get(f"{stack.origin}{path}")
        assert answer.status_code in (400, 404), path
        assert answer.json()["error"]["code"] in ("NOT_FOUND", "INVALID_REQUEST")


def test_clients_behind_what_ends_tls_are_limited_apart(stack: ComposeStack) -> None:
    with ThreadPoolExecutor(8) as pool:
        ended = [*pool.map(lambda _: refused(stack, "203.0.113.1"), range(_FAILURES))]
    assert {*ended} == {401, 429}
    assert refused(stack, "203.0.113.2") == 401


def refused(stack: ComposeStack, address: str) -> int:
    connection = HTTPConnection(stack.origin.removeprefix("http://"), timeout=10)
    with closing(connection):
        named = {"X-Forwarded-For": address, "Content-Type": "application/json"}
        connection.request("POST", "/v1/telemetry/report", b"{}", named)
        return connection.getresponse().status


def test_what_runs_is_confined(stack: ComposeStack) -> None:
    for kind in KINDS:
        found = stack.container(kind)
        assert found["Config"]["User"].split(":")[0].isdigit(), kind
        assert found["Config"]["User"] not in ("0", "0:0"), kind
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], kind
        assert host["CapDrop"] == ["ALL"], kind
        assert "no-new-privileges:true" in host["SecurityOpt"], kind
        assert host["Memory"] > 0, kind


def test_no_image_has_a_secret_in_it(stack: ComposeStack, tmp_path: Path) -> None:
    """Neither in its layers' commands nor in its environment."""
    for kind in KINDS:
        image = stack.container(kind)["Image"]
        history = subprocess.run(
            ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        inspected = subprocess.run(
            ["docker", "inspect", image], check=True, capture_output=True, text=True
        ).stdout
        said = history + json.dumps(json.loads(inspected)[0]["Config"])
        for secret in stack.secrets():
            assert secret not in said, kind
