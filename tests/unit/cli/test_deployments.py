"""What the commands about deployments say of an API that answers as a test says."""

from typing import Any

import httpx
import pytest
from webhost_cli import deployments, secrets
from webhost_cli.client import Api
from webhost_cli.errors import ApiError, CommandError, ExitCode

AGENT, DEPLOYMENT = f"agt_{'1' * 26}", f"dep_{'2' * 26}"
DEPLOYING: dict[str, Any] = {
    "id": DEPLOYMENT,
    "agentId": AGENT,
    "version": 1,
    "status": "deploying",
    "runtimeProvider": "cloudflare",
    "artifact": {"type": "inline", "sizeBytes": 1, "checksum": "c"},
    "createdAtMs": 0,
}
PROVIDER_SAID = "Uncaught SyntaxError: Unexpected token '}'\n  at worker.mjs:3"
ERROR = {
    "code": "DEPLOYMENT_FAILED",
    "message": "The code was refused.",
    "retryable": False,
    "details": {"step": "upload", "providerMessage": PROVIDER_SAID, "endpoint": None},
}


def refused(reason: str) -> httpx.Response:
    details = {"reason": reason}
    error = {"code": "UNAUTHORIZED", "message": "No.", "retryable": False, "details": details}
    return httpx.Response(403, json={"error": error | {"requestId": "req_1"}})


def api(watched: httpx.Response) -> Api:
    """An API that accepts a deploy, and answers every GET like this."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={"deployment": DEPLOYING})
        return watched

    return Api("http://api.example", "t", transport=httpx.MockTransport(answer))


def deploy(watched: httpx.Response) -> None:
    deployments.deploy(api(watched), AGENT, None, None, activate=True, wait=True, commit=None)


def test_a_key_that_may_not_watch_has_deployed(capsys: pytest.CaptureFixture[str]) -> None:
    deploy(refused("scope"))
    said = capsys.readouterr()
    assert "may not watch it (scope `read`)" in said.err
    assert DEPLOYMENT in said.out


def test_another_refusal_while_watching_is_an_error() -> None:
    with pytest.raises(ApiError):
        deploy(refused("agent_disabled"))


def test_a_failed_deployment_is_told_to_programs_by_its_details() -> None:
    failed = DEPLOYING | {"status": "failed", "errorMessage": ERROR["message"], "error": ERROR}
    with pytest.raises(CommandError) as caught:
        deploy(httpx.Response(200, json={"deployment": failed}))
    assert caught.value.exit_code == ExitCode.AGENT_FAILED
    assert "  step: upload" in str(caught.value)
    assert caught.value.envelope()["error"] == {
        "code": "DEPLOYMENT_FAILED",
        "message": f"{DEPLOYMENT} (version 1) failed: The code was refused.",
        "retryable": False,
        "details": {
            "deploymentId": DEPLOYMENT,
            "step": "upload",
            "providerMessage": PROVIDER_SAID,
            "endpoint": None,
        },
    }


def test_logs_say_what_the_provider_said(capsys: pytest.CaptureFixture[str]) -> None:
    line: dict[str, Any] = {"atMs": 1, "type": "deployment.step_failed", "error": ERROR}
    silent = line | {"error": ERROR | {"details": {"step": "upload"}}}
    page = {"lines": [line, silent, {"atMs": 1, "type": "deployment.started"}], "nextCursor": None}
    deployments.logs(api(httpx.Response(200, json=page)), DEPLOYMENT)
    _, first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("The code was refused. (Uncaught SyntaxError: Unexpected token '}')")
    assert second.endswith("The code was refused.")
    assert third.endswith("deployment.started")


def test_a_secret_that_the_agent_does_not_name_is_not_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"secrets": [{"key": "TOKEN", "isSet": False}]}
    with pytest.raises(CommandError, match="TYPO") as caught:
        secrets.remove(api(httpx.Response(200, json=names)), AGENT, "TYPO")
    assert caught.value.exit_code == ExitCode.NOT_FOUND
    assert "TOKEN" in str(caught.value)
    secrets.remove(api(httpx.Response(200, json=names)), AGENT, "TOKEN")
    assert "TOKEN" in capsys.readouterr().out
