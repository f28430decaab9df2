"""The platform's keys are replaced while calls and reports go on: none fails, none is lost."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from webhost_contracts.events import DeploymentFrontUpdated
from webhost_contracts.platform_keys import KINDS, next_id
from webhost_deployer.crash_points import RESEAL, Moment, fact_point, point
from webhost_kit.clock import now_ms
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.keys import StackKeys
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack
from tests.support.traffic import PROMPT, tokens_of

PAGE = "rotating-keys.md"
ROTATED_S = 120
COUNTED_S = 30
TELLS = """
export default { async invoke(_, context) { return JSON.stringify(context.env); } };
"""


@pytest.fixture(scope="module", params=[None, "customers"], ids=["account", "namespace"])
def rotated(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack of either layout: on a plain account with one gateway, else with two."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            patch.setenv("CLOUDFLARE_DISPATCH_NAMESPACE", request.param)
        with running_stack(
            "--replicas", "gateway=1" if request.param is None else "gateway=2"
        ) as running:
            yield running


@dataclass
class Load:
    """Calls of one agent and reports in its name, until the block ends; none may fail."""

    caller: Caller
    agent_id: str
    failed: list[str] = field(default_factory=list[str])
    calls: int = 0
    tokens: int = 0

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=70)
        assert not self._thread.is_alive(), "a call hangs"

    def check(self) -> None:
        """Every call was answered, and each one's report has arrived."""
        assert not self.failed, self.failed[:5]
        assert self.calls

        def counted() -> bool:
            usage = self.caller.usage()["usage"]
            return (usage["requests"], usage["llmTokens"]) == (self.calls, self.tokens)

        until(counted, f"{self.calls} calls with {self.tokens} tokens", seconds=COUNTED_S)

    def call(self) -> None:
        try:
            answer = self.caller.post_invoke(self.agent_id, PROMPT)
        except httpx.TransportError as error:
            self.failed.append(repr(error))
            return
        if answer.status_code != 200:
            self.failed.append(f"{answer.status_code} {answer.text}")
            return
        self.calls += 1
        self.tokens += tokens_of(answer.json()["output"]["text"])

    def _call_on(self) -> None:
        while not self._stop.wait(0.05):
            self.call()


def rotate(stack: Stack, kind: str) -> subprocess.Popen[str]:
    command = ["keys", "rotate-platform", kind, "--json", "--data-dir", str(stack.data_dir)]
    return subprocess.Popen(
        [sys.executable, "-m", "webhost_cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(command: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = command.communicate(timeout=ROTATED_S)
    assert command.returncode == 0, (out, err)
    return json.loads(out)


def an_agent(stack: Stack, *keys: str) -> tuple[Caller, str, dict[str, Any]]:
    caller = stack.unlimited_caller()
    agent = caller.create_agent(envVarKeys=list(keys))["id"]
    for key in keys:
        values = {"secrets": {key: "kept"}}
        caller.http.post(f"/v1/agents/{agent}/secrets", json=values).raise_for_status()
    deployment = caller.deploy(agent, moduleCode=TELLS)
    return caller, agent, deployment


@pytest.mark.long
@pytest.mark.accept("7.rotation.kinds")
@pytest.mark.timeout(900)
def test_each_key_is_replaced_under_load(rotated: Stack, tmp_path: Path) -> None:
    section = "The platform's keys, on a local stack"
    with Runbook(rotated, PAGE, section, tmp_path) as runbook:
        for kind in ("invoke", "platform", "secrets", "telemetry"):
            check_replaced(rotated, kind, runbook)


def check_replaced(rotated: Stack, kind: str, runbook: Runbook) -> None:
    caller, agent, deployment = an_agent(rotated, "KEY")
    caller.deploy(agent, moduleCode=TELLS)
    load = Load(caller, agent)
    load.call()
    before = kept_identities.load_or_make(DataDir.at(rotated.data_dir)).ring(KINDS[kind])
    with load:
        runbook.step()
    load.check()
    ring = kept_identities.load_or_make(DataDir.at(rotated.data_dir)).ring(KINDS[kind])
    if kind == "telemetry":
        assert ring.old == before.old
        assert ring.new is not None
    else:
        assert ring.old != before.old
        assert ring.new is None
        assert len(ring.seeds) == 1
    # A rollback to the kept one, a new secret and a new deployment work with the new key alone.
    path = f"/v1/agents/{agent}/deployments/{deployment['id']}/activate"
    until(lambda: caller.http.post(path).status_code == 200, "a way back", seconds=20)
    values = {"secrets": {"KEY": "changed"}}
    secrets_path = f"/v1/agents/{agent}/secrets"
    # The deployer has just come back: a request may still be told to try again.
    until(
        lambda: caller.http.post(secrets_path, json=values).status_code == 204,
        "the secret to be set",
        seconds=20,
    )
    told = json.dumps({"KEY": "changed"}, separators=(",", ":"))
    until(
        lambda: caller.invoke(agent, PROMPT)["output"]["text"] == told,
        "the agent to have the new value",
        seconds=20,
    )
    caller.deploy(agent, moduleCode=TELLS)
    assert caller.invoke(agent, PROMPT)["output"]["text"] == told


@pytest.mark.long
@pytest.mark.accept("7.rotation.kinds")
@pytest.mark.timeout(600)
def test_command_and_deployer_are_killed_while_a_key_is_replaced(rotated: Stack) -> None:
    caller, agent, _ = an_agent(rotated, "KEY")
    load = Load(caller, agent)
    load.call()
    of_fronts = (
        ("invoke", fact_point(DeploymentFrontUpdated, Moment.RECORDED)),
        ("platform", fact_point(DeploymentFrontUpdated, Moment.RECORDING)),
    )
    # With a dispatch namespace no deployment has a front of its own.
    own_fronts = "CLOUDFLARE_DISPATCH_NAMESPACE" not in os.environ
    for kind, at in (("secrets", point(RESEAL, Moment.RECORDED)), *(of_fronts * own_fronts)):
        before = kept_identities.load_or_make(DataDir.at(rotated.data_dir)).ring(KINDS[kind]).old
        rotated.crash_at(at)
        with load:
            command = rotate(rotated, kind)
            until(
                lambda command=command: rotated.crashed() or command.poll() is not None,
                at,
                seconds=ROTATED_S,
            )
            command.kill()
            command.communicate()
            result = ended(rotate(rotated, kind))
        load.check()
        if result["old"] == next_id(before):
            assert result["phase"] == "old"
        else:
            # The first command had come to its end: the second one made a rotation of its own.
            assert result["old"] == next_id(next_id(before))
    rotated.crash_file.unlink(missing_ok=True)


@pytest.mark.accept("7.rotation.revoked")
@pytest.mark.timeout(120)
def test_an_operator_revokes_a_deployments_telemetry_key(stack: Stack, tmp_path: Path) -> None:
    caller, agent, deployment = an_agent(stack)
    keys = StackKeys(stack)

    def report(generation: int) -> int:
        body = {
            "userId": deployment["userId"],
            "agentId": agent,
            "deploymentId": deployment["id"],
            "runtimeProvider": deployment["runtimeProvider"],
            "timestampMs": now_ms(),
            "requests": 0,
            "llmTokens": 0,
            "computeMs": 0,
            "errors": 0,
        }
        raw = json.dumps(body).encode()
        headers = keys.report_headers(deployment["id"], raw, generation)
        url = f"{stack.origin}/v1/telemetry/report"
        return httpx.post(url, content=raw, headers=headers).status_code

    assert report(1) == 202
    load = Load(caller, agent)
    load.call()
    load.check()
    with Runbook(stack, PAGE, "One deployment's telemetry key", tmp_path) as runbook:
        runbook.rest({"DEPLOYMENT": deployment["id"]})
    until(lambda: report(1) == 401, "the old key to be refused", seconds=10)
    assert report(2) == 202
    for _ in range(3):
        load.call()
    load.check()
    audit = caller.http.get("/v1/audit").json()["entries"]
    assert "deployment.telemetry_key_revoked" in {it["action"] for it in audit}
    unknown = stack.webhost("keys", "revoke-telemetry", "dep_unknown", check=False)
    assert unknown.returncode == 4
    assert "dep_unknown: there is no such deployment" in unknown.stderr
    named = stack.webhost("keys", "rotate-platform", "telemetry", "--show", "--json")
    assert json.loads(named.stdout)["deployments"], "one is kept, if not the newest of a hundred"


@pytest.mark.long
@pytest.mark.accept("7.rotation.revoked")
@pytest.mark.timeout(300)
def test_after_a_leak_the_kept_deployments_are_moved_to_the_new_master_key(
    rotated: Stack, tmp_path: Path
) -> None:
    caller, agent, deployment = an_agent(rotated)
    ended(rotate(rotated, "telemetry"))
    with Runbook(rotated, PAGE, "What it waits for", tmp_path) as runbook:
        runbook.rest()
    shown = rotated.webhost("keys", "rotate-platform", "telemetry", "--show", "--json")
    assert deployment["id"] not in json.loads(shown.stdout)["deployments"]
    caller.invoke(agent, PROMPT)


@pytest.mark.long
@pytest.mark.accept("7.rotation.elsewhere")
@pytest.mark.timeout(300)
def test_a_key_is_replaced_by_an_operator_elsewhere(tmp_path: Path) -> None:
    """Whose services have their settings from files that the operator changes."""
    with running_stack() as own:
        caller, agent, _ = an_agent(own)
        load = Load(caller, agent)
        load.call()
        at_bus = {"NATS_URL": own.status()["natsUrl"]}
        section = "The platform's keys, on an installation of your own"
        known = kept_identities.load_or_make(DataDir.at(own.data_dir))
        settings = known.settings_of("deployer") | known.settings_of("gateway")
        with load, Runbook(own, PAGE, section, tmp_path, at_bus) as runbook:
            for _ in range(3):
                told = runbook.step(within=ROTATED_S)
                new = dict(line.split("=", 1) for line in read_lines(tmp_path / "new-key"))
                for setting, service, ids in _SET.findall(told):
                    keys = _keys_of(f"{settings[setting]},{new[setting]}")
                    text = ",".join(keys[key_id] for key_id in ids.split(", "))
                    write_setting(own.data_dir / "keys" / service, setting, text)
            runbook.rest(within=ROTATED_S)
        load.check()
        caller.deploy(agent, moduleCode=TELLS)
        load.call()
        load.check()


_SET = re.compile(r"^set (\w+) of (\w+) to the keys (.+)$", re.MULTILINE)


def _keys_of(text: str) -> dict[str, str]:
    """The keys of a setting, each with its id before it, by that id."""
    return {key.partition(":")[0]: key for key in text.split(",")}


def read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def write_setting(file: Path, setting: str, text: str) -> None:
    """Replace a line of a service's file of keys; the file is replaced whole."""
    others = [line for line in read_lines(file) if not line.startswith(f"{setting}=")]
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("\n".join([*others, f"{setting}={text}", ""]))
    new.rename(file)


@pytest.mark.accept("7.rotation.elsewhere")
@pytest.mark.timeout(120)
def test_an_operator_elsewhere_is_told_what_to_set(stack: Stack, tmp_path: Path) -> None:
    own = {name: it for name, it in os.environ.items() if not name.startswith("WEBHOST_")}
    environment = own | {"NATS_URL": stack.status()["natsUrl"]}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "webhost_cli", "keys", "rotate-platform", "invoke"]
        return subprocess.run(
            [*command, *options],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    shown = run("--show", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["phase"] == "old"
    assert run().returncode == 2
    file = tmp_path / "new"
    told = run("--out", str(file), "--json")
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout)
    assert result["set"] == [
        {
            "service": "deployer",
            "setting": "INVOKE_PUBLIC_KEYS",
            "keys": [result["old"], result["new"]],
        },
        {"service": "gateway", "setting": "INVOKE_PRIVATE_KEYS", "keys": [result["old"]]},
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert sorted(lines) == ["INVOKE_PRIVATE_KEYS", "INVOKE_PUBLIC_KEYS"]
    for text in lines.values():
        assert text.startswith(f"{result['new']}:")
        assert text.partition(":")[2] not in told.stdout + told.stderr
    again = run("--out", str(file))
    assert again.returncode == 2
    assert "exists" in again.stderr
