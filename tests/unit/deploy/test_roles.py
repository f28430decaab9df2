"""`python -m deploy roles`: what it says of an input that it cannot use."""

import json
import os
import subprocess
import sys

import pytest

SECRET = {"metadata": {"name": "webhost-role-api"}, "stringData": {"password": "p"}}
EMPTY = {"metadata": {"name": "webhost-role-api-owner"}, "stringData": {"other": "p"}}


def run(given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy", "roles", "api"],
        env=os.environ | {"DATABASE_SUPERUSER_URL": "postgresql://nobody@127.0.0.1:9/none"},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("items", [[SECRET], [SECRET, EMPTY]], ids=["missing", "without"])
def test_a_secret_that_is_missing_is_named(items: list[object]) -> None:
    ended = run(json.dumps({"kind": "List", "items": items}))
    said = "roles: no Secret with a password is on standard input for webhost-role-api-owner\n"
    assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize("given", ["", "nonsense", "[1]", "{}", "a: [", '{"items": [{}]}'])
def test_what_is_no_list_of_secrets_is_refused(given: str) -> None:
    ended = run(given)
    assert (ended.returncode, ended.stderr) == (
        1,
        "roles: standard input is no list of Secrets\n",
    )
