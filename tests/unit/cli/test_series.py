"""Times that cannot be, in the words of who typed them."""

from datetime import datetime

import httpx
import pytest
from webhost_cli import series
from webhost_cli.client import Api
from webhost_cli.errors import CommandError, ExitCode

PATH = "/v1/usage/series"
EARLY, LATE = datetime(2026, 11, 1), datetime(2026, 11, 2, 8, 30)  # noqa: DTZ001 - as typer gives them


def refusal(since: datetime, until: datetime | None) -> CommandError:
    """The API refuses `fromMs`, if it is asked."""
    issue = {"path": ["fromMs"], "message": "Too old."}
    body = {
        "code": "INVALID_REQUEST",
        "message": "Too old.",
        "retryable": False,
        "details": {"issues": [issue]},
        "requestId": "req_1",
    }
    response = httpx.Response(400, json={"error": body})
    with (
        Api("http://api", "t", transport=httpx.MockTransport(lambda _: response)) as api,
        pytest.raises(CommandError) as error,
    ):
        series.show(api, PATH, "hour", since, until, as_json=False)
    assert error.value.exit_code == ExitCode.USAGE
    return error.value


def test_from_has_to_be_before_to() -> None:
    expected = "--from 2026-11-02T08:30 has to be before --to 2026-11-01T00:00"
    assert str(refusal(LATE, EARLY)) == expected
    future = datetime(9999, 1, 1)  # noqa: DTZ001
    assert str(refusal(future, None)) == "--from 9999-01-01T00:00 has to be before now"


def test_what_the_api_refuses_is_named_as_it_was_typed() -> None:
    assert str(refusal(EARLY, LATE)).startswith("--from 2026-11-01T00:00: Too old. [")
