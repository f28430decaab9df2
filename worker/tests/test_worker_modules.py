"""The Worker's modules: their own tests on workerd, and that every module is shipped."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import webhost_worker as worker
from webhost_api import templates

HERE = Path(__file__).parent


@pytest.mark.timeout(240)
def test_their_own_tests_pass() -> None:
    node = shutil.which("node")
    assert node is not None, "node is not on the PATH"
    files = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    run = subprocess.run(
        [node, "--test", *files], capture_output=True, text=True, timeout=220, check=False
    )
    assert run.returncode == 0, run.stdout[-8_000:] + run.stderr[-2_000:]


def imports_of(modules: Mapping[str, bytes], main: str) -> set[str]:
    found: set[str] = set()
    pending = [main]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        if name in modules:
            pending += re.findall(r'"\./([^"]+)"', modules[name].decode())
    return found


def test_the_front_is_shipped_with_exactly_what_it_imports() -> None:
    modules = worker.front_modules()
    assert next(iter(modules)) == worker.FRONT_MAIN
    assert imports_of(modules, worker.FRONT_MAIN) == set(modules)


def test_the_agent_script_is_shipped_with_exactly_what_it_imports() -> None:
    modules = worker.agent_modules()
    shipped = {*modules, worker.CUSTOMER_MODULE}
    assert next(iter(modules)) == worker.AGENT_MAIN
    assert imports_of(modules, worker.AGENT_MAIN) == shipped
    assert all(name.startswith("webhost-") for name in shipped)


def test_the_session_worker_is_shipped_with_exactly_what_it_imports() -> None:
    modules = worker.session_modules()
    assert next(iter(modules)) == worker.SESSIONS_MAIN
    assert imports_of(modules, worker.SESSIONS_MAIN) == set(modules)
    source = modules[worker.SESSIONS_MAIN].decode()
    assert f"PROTOCOL_VERSION = {worker.SESSIONS_PROTOCOL_VERSION};" in source
    assert f"export {{ {worker.SESSIONS_CLASS} }};" in source


def test_the_outbound_worker_is_shipped_with_exactly_what_it_imports() -> None:
    modules = worker.outbound_modules()
    assert next(iter(modules)) == worker.OUTBOUND_MAIN
    assert imports_of(modules, worker.OUTBOUND_MAIN) == {*modules, worker.EGRESS_MODULE}


@pytest.mark.accept("6.1")
def test_no_script_of_the_platforms_looks_into_a_cache() -> None:
    """Agents can write there, on a plain account under any address of the zone."""
    for modules in (worker.front_modules(), worker.session_modules(), worker.outbound_modules()):
        assert not re.search(rb"\bcaches\b|\bcf:", b"".join(modules.values()))


def test_every_template_loads() -> None:
    assert templates.DEFAULT in {template.name for template in templates.TEMPLATES}
    for template in templates.TEMPLATES:
        assert "export default" in templates.load(template.name)
    with pytest.raises(KeyError):
        templates.load("none")
