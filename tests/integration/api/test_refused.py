"""What Postgres refuses the api: the caller is told at once, the operator sees it."""

import json
from time import monotonic

import aiohttp
import pytest

from tests.integration.api.harness import Harness, ok, problem


@pytest.mark.accept("6.D2")
async def test_a_refusal_of_the_database_is_answered_logged_and_counted(
    own_harness: Harness,
) -> None:
    harness = own_harness
    log = harness.service.log = harness.directory / "log"
    await harness.service.kill()
    await harness.start(LOG_LEVEL="error")
    user = harness.user()
    ok(await user.http.get("/v1/agents"))
    # given a grant that somebody took away
    await harness.execute("REVOKE SELECT ON agents FROM service")
    # when a request needs it
    began = monotonic()
    problem(await user.http.get("/v1/agents"), 500, "INTERNAL")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{harness.service.ops_url}/metrics") as answer,
    ):
        metrics = await answer.text()
    # then it was seen within a second
    assert monotonic() - began < 1
    assert "webhost_database_refusals_total 1.0" in metrics
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    refused = [line for line in lines if line["event"] == "refused by the database"]
    [line] = refused
    assert line["error"] == "InsufficientPrivilege 42501: permission denied for table agents"
    assert user.id not in json.dumps(refused)
