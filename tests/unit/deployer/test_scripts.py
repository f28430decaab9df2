"""What is uploaded: names, tags, bindings, and which session Worker is left as it is."""

import json
import re

import pytest
import webhost_worker as worker
from webhost_contracts.artifacts import Bundle, Module
from webhost_contracts.bindings import is_reserved
from webhost_contracts.entitlements import known_tier, load_tiers
from webhost_contracts.invoke import Limits
from webhost_deployer.cloudflare import addresses, egress, platform_scripts, scripts
from webhost_deployer.cloudflare.addresses import CustomDomain, WorkersDev
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.cloudflare.scripts import Script, WorkerEnvironment
from webhost_deployer.cloudflare.sdk import files_of, metadata_of
from webhost_kit.keys import MasterKeys

from tests.unit.deployer.samples import AGENT, DEPLOYMENT, begun

AROUND = WorkerEnvironment(
    installation_id="ins_0123456789abcdef",
    telemetry_report_url="https://webhost.example/v1/telemetry/report",
    invoke_public_keys={"i1": "aaaa"},
    platform_public_keys={"p1": "bbbb"},
    session_idle_days=30,
)


def bundle(*names: str) -> Bundle:
    return Bundle(modules=tuple(Module(name=name, content="export default {}") for name in names))


@pytest.mark.accept("8.scripts")
def test_an_agents_script() -> None:
    limits = Limits(cpu_ms=10_000, subrequests=50)
    modules, installation = bundle("index.mjs"), AROUND.installation_id
    secrets = {"KEY": "value", "A": "another"}
    script = scripts.agent_script(begun(), modules, limits, installation, secrets)
    is_well_formed(script)
    assert script.modules["index.mjs"] == b"export default {}"
    shim = script.modules[worker.CUSTOMER_MODULE].decode()
    assert shim.splitlines() == [
        'export { default } from "./index.mjs";',
        'export const invokePath = "/invoke";',
    ]
    assert script.bindings == [scripts.secret("A", "another"), scripts.secret("KEY", "value")]
    assert "value" not in repr(script)
    assert metadata_of(script)["keep_bindings"] == [], "a secret deleted since is not kept"
    assert script.compatibility_flags == ("global_fetch_strictly_public",)
    assert script.limits == {"cpu_ms": 10_000, "subrequests": 50}


def test_each_tier_has_limits_of_its_own() -> None:
    tiers = load_tiers()
    assert tiers[known_tier(tiers, "pro")] is tiers["pro"]
    assert tiers["pro"].cpu_ms != tiers["free"].cpu_ms
    assert tiers[known_tier(tiers, "one that is gone")] is tiers["free"]
    assert tiers[known_tier(tiers, None)] is tiers["free"]


@pytest.mark.accept("8.scripts")
def test_a_front() -> None:
    script = scripts.front_script(begun(), b"k" * 32, AROUND)
    is_well_formed(script)
    named = {binding["name"]: binding for binding in script.bindings}
    assert all(map(is_reserved, named))
    assert named["WEBHOST_SESSIONS"]["props"] == {"agentId": AGENT}
    assert named["WEBHOST_AGENT"]["service"] == f"{script.name}-code"
    assert script.modules.keys() == worker.front_modules().keys()
    assert "secret_text" not in repr(script)


def is_well_formed(script: Script) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,63}", script.name)
    assert script.main_module in script.modules
    assert len(script.tags) <= 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", tag) for tag in script.tags)
    assert scripts.tagged(script.tags, "deployment") == DEPLOYMENT


def test_the_dispatch_worker_names_its_keys_in_no_tag() -> None:
    keys = MasterKeys({1: b"k" * 32, 2: b"l" * 32})
    script = platform_scripts.dispatch_script(AROUND, keys, "customers")
    assert platform_scripts.is_current(script.tags, script)
    same_names = MasterKeys({1: b"m" * 32, 2: b"n" * 32})
    again = platform_scripts.dispatch_script(AROUND, same_names, "customers")
    assert script.tags == again.tags
    more = platform_scripts.dispatch_script(AROUND, MasterKeys({1: b"k" * 32}), "customers")
    assert not platform_scripts.is_current(script.tags, more)


def test_other_rules_of_egress_replace_the_outbound_worker() -> None:
    script = platform_scripts.outbound_script(AROUND, Egress())
    agents = {f"agt_{number:026}": (f"{number}.example",) for number in range(1_000)}
    other = platform_scripts.outbound_script(AROUND, Egress(agents=agents))
    assert script.main_module in script.modules
    assert script.compatibility_flags == ("global_fetch_strictly_public",)
    assert not platform_scripts.is_current(script.tags, other)


@pytest.mark.parametrize(
    "rules",
    [
        "",
        '{"default": ["https://a.example"]}',
        '{"default": ["*.example.org:80"]}',
        '{"allow": []}',
        '{"agents": {"my-agent": []}}',
    ],
)
def test_rules_that_the_outbound_worker_does_not_know_are_refused(rules: str) -> None:
    with pytest.raises(ValueError, match="AGENT_EGRESS"):
        egress.parse(rules)
    entries = ("*", "*.b.example", "[fd00::1]:80", "10.0.0.1")
    known = egress.parse(json.dumps({"agents": {AGENT: entries}}))
    assert known == Egress(agents={AGENT: entries})


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["index.mjs"], None),
        (["index.mjs", "lib/words.js"], None),
        (["index.mjs", "a.json", "b.txt", "lib/c.wasm"], None),
        (["other.mjs"], "The main module index.mjs is not in the bundle."),
        (["index.mjs", "data.exe"], "The module data.exe is none that can be deployed."),
        (["index.mjs", "../up.mjs"], "The module ../up.mjs is not below the bundle's root."),
        (["index.mjs", "/abs.mjs"], "The module /abs.mjs is not below the bundle's root."),
        (["index.mjs", "index.mjs"], "Two modules have the same name."),
        (
            ["index.mjs", "webhost-entry.mjs"],
            "The module webhost-entry.mjs has a name that the platform reserves.",
        ),
        (
            ["index.mjs", "Webhost-Entry.mjs"],
            "The module Webhost-Entry.mjs has a name that the platform reserves.",
        ),
    ],
)
def test_what_can_be_deployed(names: list[str], problem: str | None) -> None:
    assert scripts.bundle_problem("index.mjs", bundle(*names)) == problem


@pytest.mark.accept("7.4.kinds")
def test_each_kind_is_uploaded_as_cloudflare_takes_it() -> None:
    modules = (
        Module(name="index.mjs", content="export default {};"),
        Module(name="d.json", content='{"a": "\\u2028"}'),
        Module(name="t.txt", content="é"),
        Module.binary("w.wasm", b"\0asm\xff"),
    )
    script = scripts.agent_script(
        begun(), Bundle(modules=modules), None, AROUND.installation_id, {}
    )
    files = {name: (body, kind) for name, body, kind in files_of(script)}
    esm = "application/javascript+module"
    assert files["index.mjs"] == (b"export default {};", esm)
    assert files["d.json"] == (
        b'export default JSON.parse("{\\"a\\": \\"\\\\u2028\\"}");\n',
        esm,
    )
    assert files["t.txt"] == ("é".encode(), "text/plain")
    assert files["w.wasm"] == (b"\0asm\xff", "application/wasm")


def test_the_session_worker_is_replaced_by_other_content_and_never_by_an_older_protocol() -> None:
    wanted = platform_scripts.sessions_script(AROUND)
    assert len(wanted.name) <= 63
    version = worker.SESSIONS_PROTOCOL_VERSION
    assert platform_scripts.is_current(wanted.tags, wanted)
    assert not platform_scripts.is_current(["webhost"], wanted)
    assert not platform_scripts.is_current([f"platform-v{version}-0000000000000000"], wanted)
    assert not platform_scripts.is_current([f"platform-v{version - 1}-0000000000000000"], wanted)
    assert platform_scripts.is_current([f"platform-v{version + 1}-0000000000000000"], wanted)


def test_new_platform_keys_reach_the_session_worker() -> None:
    rotated = WorkerEnvironment(**{**vars(AROUND), "platform_public_keys": {"p2": "cccc"}})
    assert not platform_scripts.is_current(
        platform_scripts.sessions_script(AROUND).tags, platform_scripts.sessions_script(rotated)
    )


def test_addresses() -> None:
    domain, dev = CustomDomain("w.example", "z"), WorkersDev("me")
    assert domain.deployment_url(AGENT, DEPLOYMENT) == f"https://w.example/dep/{DEPLOYMENT}"
    assert domain.deployment_pattern(DEPLOYMENT) == f"w.example/dep/{DEPLOYMENT}/*"
    name = addresses.front_name(AGENT, DEPLOYMENT)
    assert dev.deployment_url(AGENT, DEPLOYMENT) == f"https://{name}.me.workers.dev"
    assert dev.sessions_url("ins_7") == "https://whs-sessions-7.me.workers.dev"
