"""LiteLLM's proxy, in an environment of its own: never in the project's, nor in its lock file."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from webhost_local.ports import LOOPBACK, free_port

from bench import load
from bench.harness import NotMeasured
from bench.report import progress
from bench.servers import answers, process
from bench.upstreams import Upstream

VERSION = "1.108.7"
ENVIRONMENT = Path(__file__).with_name(".peers") / f"litellm-{VERSION}"
READY = ENVIRONMENT / ".ready"
KEY = "sk-bench"
MODEL = "bench"
CALL = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()
QUIETLY = {
    # It would fetch prices from the Internet.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
}


def requests() -> list[bytes]:
    """Return the call that is made over and over."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    return [load.post("/v1/chat/completions", CALL, headers)]


@contextmanager
def proxy(directory: Path, upstream_port: int) -> Generator[Upstream]:
    """Run the proxy, one worker, in front of an upstream that speaks OpenAI's API."""
    _install()
    port = free_port()
    config = directory / "litellm.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": MODEL,
                        "litellm_params": {
                            "model": f"openai/{MODEL}",
                            "api_base": f"http://{LOOPBACK}:{upstream_port}/v1",
                            "api_key": "none",
                        },
                    }
                ],
                "general_settings": {"master_key": KEY},
                "litellm_settings": {"telemetry": False, "num_retries": 0},
            }
        )
    )
    command = [
        *(ENVIRONMENT / "bin/litellm", "--config", config, "--host", LOOPBACK),
        *("--port", str(port), "--num_workers", "1"),
    ]
    with process(
        "litellm",
        command,
        directory=directory,
        env=QUIETLY,
        is_ready=lambda: answers(port, "/health/liveliness"),
    ) as pid:
        _check(port)
        yield Upstream(port, pid)


def _install() -> None:
    """Make the environment once. Raises NotMeasured with pip's last words."""
    if READY.exists():
        return
    progress(f"peers: installing LiteLLM {VERSION} into {ENVIRONMENT}, which takes minutes")
    pip = [ENVIRONMENT / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", ENVIRONMENT],
        [*pip, "install", f"litellm[proxy]=={VERSION}"],
    ):
        finished = subprocess.run(
            [os.fspath(part) for part in command], check=False, capture_output=True, text=True
        )
        if finished.returncode != 0:
            raise NotMeasured(f"LiteLLM is not installed: {finished.stderr.strip()[-500:]}")
    READY.touch()


def _check(port: int) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", CALL, headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 200 or b"Hello there." not in said:
        raise NotMeasured(f"LiteLLM answered {answer.status}: {said[:300]!r}")
