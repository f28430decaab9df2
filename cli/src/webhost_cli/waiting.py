"""Waiting for a deployment to end, and why it failed."""

import time
from collections.abc import Callable

from webhost_cli.client import Api, Json
from webhost_cli.errors import CommandError, ExitCode

# The deployer gives up after 15 minutes without progress; then we know.
PATIENCE_S = 16 * 60
_ASK_EVERY_S = 0.25


def until_ended(api: Api, deployment: Json, report: Callable[[float], None]) -> Json:
    """Poll until the deployment is no longer `deploying`; return it.

    `report` is called at every poll with the seconds that have passed. Raises CommandError after
    PATIENCE_S.
    """
    began = time.monotonic()
    while deployment["status"] == "deploying":
        passed_s = time.monotonic() - began
        if passed_s > PATIENCE_S:
            message = f"{deployment['id']} is still deploying after {PATIENCE_S // 60} minutes"
            raise CommandError(message, ExitCode.UNAVAILABLE)
        report(passed_s)
        time.sleep(_ASK_EVERY_S)
        deployment = api.get(f"/v1/deployments/{deployment['id']}")["deployment"]
    return deployment


def failure(deployment: Json) -> str | None:
    """Why the deployment failed: the message, then a line per known detail."""
    if deployment["status"] != "failed":
        return None
    error: Json = deployment.get("error") or {}
    details: Json = error.get("details") or {}
    message = deployment.get("errorMessage") or error.get("message") or "no reason given"
    lines = [f"{deployment['id']} (version {deployment['version']}) failed: {message}"]
    lines += [f"  {name}: {value}" for name, value in details.items() if value is not None]
    return "\n".join(lines)


def failed(deployment: Json) -> CommandError | None:
    """The error of a command whose deployment failed, with what programs are to know of it."""
    if (reason := failure(deployment)) is None:
        return None
    error: Json = deployment.get("error") or {}
    details: Json = {"deploymentId": deployment["id"]} | (error.get("details") or {})
    return CommandError(reason, ExitCode.AGENT_FAILED, details)
