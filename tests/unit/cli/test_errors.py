"""What a user reads when the API refuses, and how the command ends."""

import json

import pytest
from webhost_cli.errors import ApiError, CommandError, ExitCode


def refused(code: str, **details: object) -> CommandError:
    error = {
        "code": code,
        "message": "No.",
        "retryable": False,
        "details": details,
        "requestId": "req_7",
    }
    return ApiError.from_response(400, json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("INVALID_REQUEST", 2),
        ("UNAUTHENTICATED", 3),
        ("NOT_FOUND", 4),
        ("CONFLICT", 5),
        ("LIMIT_EXCEEDED", 6),
        ("RATE_LIMITED", 6),
        ("UNAVAILABLE", 7),
        ("RUNTIME_ERROR", 8),
        ("INTERNAL", 1),
        ("A_CODE_OF_LATER", 1),
    ],
)
def test_every_code_has_its_exit_code(code: str, exit_code: int) -> None:
    assert refused(code).exit_code == exit_code


def test_message_code_and_request_id_are_shown() -> None:
    assert str(refused("CONFLICT")) == "No. [CONFLICT, request req_7]"


def test_issues_and_details_get_a_line_each() -> None:
    issues = [{"path": ["envVarKeys", 0], "message": "is reserved"}, {"path": [], "message": "?"}]
    shown = str(refused("INVALID_REQUEST", issues=issues, limit=3, current=None))
    assert shown.splitlines()[1:] == ["  envVarKeys.0: is reserved", "  body: ?", "  limit: 3"]


def test_an_issue_that_is_all_there_is_to_say_is_said_once() -> None:
    error = refused("INVALID_REQUEST", issues=[{"path": ["tier"], "message": "No."}])
    assert str(error) == "tier: No. [INVALID_REQUEST, request req_7]"


@pytest.mark.parametrize(
    ("status", "exit_code"), [(502, ExitCode.UNAVAILABLE), (418, ExitCode.FAILURE)]
)
def test_an_answer_that_is_not_ours_is_named_by_its_status(status: int, exit_code: int) -> None:
    error = ApiError.from_response(status, b"<html>")
    assert not isinstance(error, ApiError)
    assert f"HTTP {status}" in str(error)
    assert error.exit_code == exit_code


def test_as_json_an_error_is_the_apis_own_or_has_its_shape() -> None:
    body = refused("LIMIT_EXCEEDED", limit=3).envelope()["error"]
    assert (body["code"], body["message"], body["requestId"]) == ("LIMIT_EXCEEDED", "No.", "req_7")
    assert body["details"] == {"limit": 3}
    for exit_code, code in (
        (ExitCode.FAILURE, "FAILURE"),
        (ExitCode.USAGE, "INVALID_REQUEST"),
        (ExitCode.LIMIT, "LIMIT_EXCEEDED"),
        (ExitCode.AGENT_FAILED, "DEPLOYMENT_FAILED"),
    ):
        error = {"code": code, "message": "No.", "retryable": False, "details": {}}
        assert CommandError("No.", exit_code).envelope() == {"error": error}
    assert CommandError("Away.", ExitCode.UNAVAILABLE).envelope()["error"]["retryable"] is True
