"""The commands, as a developer uses them on a running stack."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.bundles import OF_EVERY_KIND, OF_EVERY_KIND_ANSWERS, tarred, zipped
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack

MODULE = """
export default {
  async invoke(request) {
    return `Version two heard: ${request.input.messages.at(-1).content}`;
  },
};
"""

NOTICE = "invocation.finished.v1"

DOCUMENTED: dict[tuple[str, ...], set[str]] = {
    ("me",): {"user"},
    ("agents", "list"): {"agents", "nextCursor"},
    ("agents", "get"): {"agent", "invokeUrl"},
    ("agents", "metrics"): {"series"},
    ("agents",): {"agent"},
    ("deploy",): {"deployment", "invokeUrl"},
    ("deployments", "list"): {"deployments", "nextCursor"},
    ("deployments", "get"): {"deployment"},
    ("deployments", "source"): {"modules"},
    ("activate",): {"agent", "deployment"},
    ("invoke",): {"protocol", "traceId", "sessionId", "output", "usage"},
    ("keys", "list"): {"keys", "nextCursor"},
    ("keys", "revoke"): {"revoked"},
    ("keys",): {"key", "token"},
    ("deployments", "logs"): {"lines", "nextCursor"},
    ("usage", "--by"): {"series"},
    ("usage",): {"periodKey", "tier", "usage", "byRuntime", "limits"},
    ("users", "set-tier"): {"tier", "refused"},
    ("users", "disable"): {"status", "waits", "refused"},
    ("users", "enable"): {"status", "waits", "refused"},
    ("billing", "invoice"): {"invoice"},
    ("billing", "rebuild"): {
        *("processed", "total", "resumed", "done", "swapped", "refused"),
        *("differences", "sealed", "leftOut", "heldBackMs"),
    },
    ("cloudflare", "reconcile"): {
        *("scripts", "routes", "missing", "leftOut", "removed", "refused"),
    },
    ("deadletters", "list"): {"deadLetters", "parked", "silent"},
}
"""The fields of what each command prints with --json, on a stack where there is little to print."""


class Developer:
    """One user at the command line, with a configuration directory of their own."""

    def __init__(self, stack: Stack, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = stack
        monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
        self.subject = f"developer-{secrets.token_hex(4)}"

    def runs(self, *arguments: str, ends: int = 0) -> subprocess.CompletedProcess[str]:
        result = self._stack.webhost(*arguments, check=False)
        assert result.returncode == ends, (arguments, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        return result

    def runs_with(
        self, token: str, *arguments: str, ends: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this WEBHOST_TOKEN; `ends` is None where any end will do."""
        variables = {"WEBHOST_TOKEN": token, "WEBHOST_DATA_DIR": str(self._stack.data_dir)}
        result = subprocess.run(
            [sys.executable, "-m", "webhost_cli", *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ends in (None, result.returncode), (arguments, result.stdout, result.stderr)
        return result

    def in_a_shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line where `webhost` is found, with the test's own environment."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "WEBHOST_DATA_DIR": str(self._stack.data_dir)}
        return subprocess.run(
            ["bash", "-c", line], env=variables, capture_output=True, text=True, check=True
        )

    def follows(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on; what it prints can be read line by line."""
        command = [sys.executable, "-m", "webhost_cli", *arguments]
        variables = {**os.environ, "WEBHOST_DATA_DIR": str(self._stack.data_dir)}
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)

    def calls_as_printed(self, printed: str) -> None:
        """The last line that a command printed calls the agent."""
        answer = json.loads(self.in_a_shell(f"{printed.splitlines()[-1]} -sS").stdout)
        assert answer["output"]["text"] == "You said: Hello"

    def reads(self, *arguments: str) -> Any:
        """Run a command with --json; what is printed has every documented field."""
        printed = json.loads(self.runs(*arguments, "--json").stdout)
        documented = next(
            fields for command, fields in DOCUMENTED.items() if arguments[: len(command)] == command
        )
        assert printed.keys() == documented, arguments
        return printed


@pytest.fixture
def developer(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Developer:
    return Developer(stack, tmp_path, monkeypatch)


def test_an_agents_life_at_the_command_line(
    stack: Stack, developer: Developer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    developer.runs("me", ends=3)
    signed_in = developer.runs("login", "--subject", developer.subject)
    assert developer.subject in signed_in.stdout
    assert developer.reads("me")["user"]["subject"] == developer.subject
    allowed = developer.runs("me").stdout.splitlines()
    assert ["requests", "a", "month", "1,000"] in [line.split() for line in allowed]

    agent = developer.reads("agents", "create", "helper")["agent"]
    first = developer.reads("deploy", "helper")["deployment"]
    assert (first["version"], first["status"]) == (1, "active")
    # Once a gateway knows the agent, the command line can call it too.
    stack.caller(developer.subject).invoke(agent["id"], "Anybody there?")
    shown = developer.reads("agents", "get", "helper")
    assert shown["invokeUrl"] == f"{stack.status()['origin']}/v1/invoke/{agent['id']}"
    answer = developer.reads("invoke", "helper", "hello")
    assert answer["output"]["text"] == "You said: hello"
    again = developer.runs("invoke", agent["id"], "hello", "--session", answer["sessionId"])
    assert again.stdout == "You said: hello (turn 2)\n"

    module = tmp_path / "two.mjs"
    module.write_text(MODULE)
    second = developer.reads("deploy", "helper", "--file", str(module), "--no-activate")
    assert second["deployment"]["status"] == "inactive"
    assert developer.runs("deployments", "source", "helper/2").stdout == MODULE + "\n"
    developer.runs("activate", "helper", "2", "--reason", "it is better")
    listed = developer.reads("deployments", "list", "helper")["deployments"]
    assert [(d["version"], d["status"]) for d in listed] == [(2, "active"), (1, "inactive")]
    rolled_back = developer.reads("activate", "helper", first["id"])
    assert rolled_back["agent"]["activeDeploymentId"] == first["id"]

    developer.calls_as_printed(developer.runs("deploy", "helper").stdout)
    shown = developer.runs("agents", "get", "helper", "--as", developer.subject)
    developer.calls_as_printed(shown.stdout)
    monkeypatch.setenv("WEBHOST_TOKEN", developer.runs("token").stdout.strip())
    developer.calls_as_printed(developer.in_a_shell("webhost agents get helper").stdout)
    other = developer.in_a_shell(f"webhost login --subject {developer.subject}-2")
    assert "WEBHOST_TOKEN is set and goes before this login" in other.stderr
    monkeypatch.delenv("WEBHOST_TOKEN")
    again = developer.in_a_shell(f"webhost login --subject {developer.subject}")
    assert "WEBHOST_TOKEN" not in again.stderr

    streamed = developer.runs("invoke", "helper", "one two", "--stream", "--json").stdout
    events = [json.loads(line) for line in streamed.splitlines()]
    assert [event["event"] for event in events][:2] == ["meta", "delta"]
    assert events[-1]["event"] == "done"

    used = developer.reads("usage")
    assert used["limits"]["requests"] == 1000
    until(
        lambda: developer.reads("billing", "invoice")["invoice"]["usage"]["requests"] >= 1,
        "the calls to be counted",
        seconds=20,
    )
    invoice = developer.reads("billing", "invoice")["invoice"]
    costs = [int(line["costPicodollars"]) for line in invoice["lines"]]
    assert sum(costs) == int(invoice["usage"]["costPicodollars"])
    assert {line["agentName"] for line in invoice["lines"]} == {"helper"}
    page = tmp_path / "invoice.html"
    developer.runs("billing", "invoice", "--html", str(page))
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert "helper" in developer.runs("billing", "invoice").stdout
    days = developer.reads("usage", "--by", "day")["series"]
    hours = developer.reads("agents", "metrics", "helper", "--deployment", "1")["series"]
    assert (len(days), len(hours)) == (30, 24)
    assert days[-1]["requests"] >= invoice["usage"]["requests"]
    today = datetime.now(UTC).date()
    span = ("--from", str(today - timedelta(days=1)), "--to", f"{today}T00:00")
    assert len(developer.runs("usage", "--by", "hour", *span).stdout.splitlines()) == 25
    developer.runs("usage", *span, ends=2)
    developer.runs("agents", "delete", "helper", "--yes")
    developer.runs("agents", "get", agent["id"], ends=4)
    assert developer.reads("agents", "list")["agents"] == []


@pytest.mark.accept("7.keys.cli")
def test_a_key_at_the_command_line(stack: Stack, developer: Developer) -> None:
    """Created as its user; commands then work with the key in WEBHOST_TOKEN."""
    mine = ("--as", developer.subject)
    caller = stack.caller(developer.subject)
    agent = developer.reads("agents", "create", "helper", *mine)["agent"]
    developer.runs("deploy", "helper", *mine)
    caller.invoke(agent["id"], "Anybody there?")

    made = developer.runs(
        *("keys", "create", "ci", "--scope", "invoke", "--scope", "read", "--agent", "helper"),
        *("--days", "1", "--requests", "1", "--per", "day", *mine),
    )
    token = made.stdout.removesuffix("\n")
    assert re.fullmatch(r"whs_[0-9a-z]{26}_[0-9a-f]{64}_[0-9a-f]{8}", token)
    assert token not in made.stderr
    [listed] = developer.reads("keys", "list", *mine)["keys"]
    assert listed["id"] in made.stderr

    def with_key(*arguments: str, ends: int | None = 0, key: str = token) -> Any:
        return developer.runs_with(key, *arguments, ends=ends)

    until(
        lambda: "You said" in with_key("invoke", "helper", "hello", ends=None).stdout,
        "the gateway to know the key",
    )
    over = json.loads(with_key("invoke", "helper", "hello", "--json", ends=6).stderr)
    assert over["error"]["details"]["keyId"] == listed["id"]

    rotated = developer.reads("keys", "rotate", listed["id"], "--overlap", "0", *mine)
    with_key("me", key=rotated["token"])
    assert developer.reads("keys", "revoke", listed["id"], *mine) == {"revoked": listed["id"]}
    with_key("me", ends=3, key=rotated["token"])


@pytest.mark.accept("7.4.cli")
def test_a_bundle_is_deployed(stack: Stack, developer: Developer, tmp_path: Path) -> None:
    """From an archive on the disk to an answer from real workerd, over every service between."""
    developer.runs("login", "--subject", developer.subject)
    agent = developer.reads("agents", "create", "packed")["agent"]
    bundle = tmp_path / "agent.tar.gz"
    bundle.write_bytes(tarred(OF_EVERY_KIND, "./"))
    deployed = developer.reads("deploy", "packed", "--bundle", str(bundle))["deployment"]
    assert deployed["status"] == "active"
    answer = stack.caller(developer.subject).invoke(agent["id"], "you")
    assert answer["output"]["text"] == OF_EVERY_KIND_ANSWERS
    shown = developer.runs("deployments", "source", "packed/1").stdout
    assert "// lib/words.js" in shown
    assert "(base64) AGFzbQ" in shown

    bundle.write_bytes(zipped({**OF_EVERY_KIND, "../up.js": ""}))
    refused = developer.runs("deploy", "packed", "--bundle", str(bundle), ends=2)
    assert "../up.js: The name leads out of the archive" in refused.stderr
    developer.runs(
        *("deploy", "packed", "--bundle", str(bundle), "--file", str(bundle)),
        ends=2,
    )


@contextmanager
def calling(caller: Caller, agent_id: str) -> Generator[None]:
    """Call the agent again and again until the block ends."""
    done = Event()

    def call() -> None:
        while not done.wait(0.3):
            caller.post_invoke(agent_id, "Who is it?")

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(call)
        try:
            yield
        finally:
            done.set()
        calls.result()


@pytest.mark.accept("7.audit.facts", "7.logs.steps", "7.events.live", "7.events.notices")
def number_of(event: dict[str, Any]) -> int:
    return int(event["id"].partition("-")[0])


def test_what_happened_is_shown_at_the_command_line(stack: Stack, developer: Developer) -> None:
    caller = stack.caller(developer.subject)
    agent = caller.create_agent()
    caller.deploy(agent["id"])
    mine = (agent["id"], "--as", developer.subject)
    logs = developer.reads("deployments", "logs", f"{agent['id']}/1", *mine[1:])["lines"]
    done = {line["step"] for line in logs if line.get("outcome") == "succeeded" and "step" in line}
    assert done == {"validate", "session_store", "upload", "route", "probe", "secrets"}
    shown = developer.runs("audit", "--agent", *mine).stdout
    for action in ("agent.created", "deployment.requested", "deployment.activated"):
        assert action in shown
    with developer.follows("events", *mine, "--after", "0", "--json") as follower:
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        assert (number_of(first), first["event"]) == (1, "agent.created.v1")
        printed = map(json.loads, follower.stdout)
        with calling(caller, agent["id"]):
            before = [*takewhile(lambda event: event["event"] != NOTICE, printed)]
        developer.runs("agents", "delete", *mine, "--yes")
        rest = [*before, *(event for event in printed if event["event"] != NOTICE)]
    assert follower.returncode == 0
    assert rest[-1]["event"] == "agent.deleted.v1"
    assert [number_of(event) for event in rest] == [*range(2, len(rest) + 2)]


def test_refusals_have_their_exit_codes(developer: Developer, tmp_path: Path) -> None:
    def run(*arguments: str, ends: int) -> str:
        return developer.runs(*arguments, "--as", developer.subject, ends=ends).stderr

    run("agents", "create", "mine", ends=0)
    assert "[CONFLICT" in run("agents", "create", "mine", ends=5)
    refused = json.loads(run("agents", "create", "mine", "--json", ends=5))["error"]
    assert (refused["code"], refused["retryable"]) == ("CONFLICT", False)
    assert refused.keys() == {"code", "message", "retryable", "details", "requestId"}
    assert "[CONFLICT" in run("invoke", "mine", "hello", ends=5)
    assert "name:" in run("agents", "create", "x" * 81, ends=2)
    run("agents", "get", "yours", ends=4)
    broken = tmp_path / "broken.mjs"
    broken.write_text("this is not JavaScript(")
    reason = run("deploy", "mine", "--file", str(broken), ends=8)
    assert "step: upload" in reason
    assert "broken.mjs" in reason
    failed = json.loads(run("deploy", "mine", "--file", str(broken), "--json", ends=8))
    assert failed["error"]["code"] == "DEPLOYMENT_FAILED"
    later = developer.runs("deployments", "get", "mine/1", "--as", developer.subject).stdout
    assert reason.partition("webhost: ")[2] in later
    failed = developer.runs(
        *("deploy", "mine", "--file", str(broken), "--as", developer.subject), ends=8
    )
    assert "/v1/invoke/" not in failed.stdout


def test_an_operator_sets_a_tier(stack: Stack, developer: Developer) -> None:
    user = developer.reads("me", "--as", developer.subject)["user"]
    assert developer.reads("users", "set-tier", user["id"], "pro") == {
        "tier": "pro",
        "refused": None,
    }
    developer.runs("users", "set-tier", user["id"], "platinum", ends=1)
    caller = stack.caller(developer.subject)
    until(lambda: caller.usage()["limits"]["requests"] == 25_000, "the new limits", seconds=5)


@pytest.mark.accept("7.account-disabled")
def test_an_operator_disables_and_enables_an_account(stack: Stack, developer: Developer) -> None:
    caller = stack.caller(developer.subject)
    user, agent = caller.me(), caller.create_agent()
    caller.deploy(agent["id"])
    caller.invoke(agent["id"], "Before.")
    disable = ("users", "disable", user["id"], "--reason", "spam")
    assert developer.reads(*disable) == {
        "status": "disabled",
        "waits": False,
        "refused": None,
    }
    until(
        lambda: caller.post_invoke(agent["id"], "Now.").status_code == 403,
        "calls to be refused",
        seconds=5,
    )
    refused = developer.runs("deploy", "agent", "--as", developer.subject, ends=1)
    assert "account is disabled" in refused.stderr
    assert developer.reads("users", "enable", user["id"])["status"] == "enabled"
    caller.invoke(agent["id"], "After.")
    developer.runs("users", "disable", "nobody", ends=1)


def test_commands_print_every_field_where_there_is_little_to_print(developer: Developer) -> None:
    def reads(*arguments: str) -> Any:
        return developer.reads(*arguments, "--as", developer.subject)

    assert reads("agents", "list") == {"agents": [], "nextCursor": None}
    agent = reads("agents", "create", "quiet")["agent"]
    for command in ("disable", "enable"):
        reads("agents", command, "quiet")
    reads("agents", "update", "quiet", "--description", "Says nothing")
    assert reads("deployments", "list", agent["id"])["deployments"] == []
    used = reads("usage")
    assert used["usage"]["requests"] == 0
    rebuilt = developer.reads("billing", "rebuild", "--dry-run")
    assert (rebuilt["differences"], rebuilt["swapped"]) == ([], False)
    drift = developer.reads("cloudflare", "reconcile", "--dry-run")
    assert (drift["refused"], drift["removed"]) == (None, False)
    empty: dict[str, list[object]] = {"deadLetters": [], "parked": [], "silent": []}
    assert developer.reads("deadletters", "list") == empty
