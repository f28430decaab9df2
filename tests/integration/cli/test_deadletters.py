"""Operators look at dead letters and replay them, on a real bus."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from webhost_contracts import subjects
from webhost_kit.bus import streams

SUBJECT = "cmd.deployer.deploy.dep_1"
BODY = b'{"commandId": "cmd_1"}'


@pytest.fixture
async def operator(nats_account: str) -> AsyncIterator[Client]:
    client = await nats.connect(nats_account)
    await streams.declare(client.jetstream())
    yield client
    await client.close()


async def dead_letter(operator: Client, subject: str = SUBJECT) -> None:
    headers = {
        subjects.MESSAGE_ID_HEADER: f"of-{subject}",
        subjects.TYPE_HEADER: "deployment.deploy.v1",
        subjects.DEAD_REASON_HEADER: "it cannot be handled",
    }
    await operator.jetstream().publish(subjects.dead_letter(subject), BODY, headers=headers)


async def webhost(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "webhost_cli", "deadletters", *arguments],
        env={**os.environ, "NATS_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def listed(url: str) -> list[dict[str, object]]:
    shown = await webhost(url, "list", "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["deadLetters"]


async def test_they_are_listed_and_shown_as_they_were(operator: Client, nats_account: str) -> None:
    assert await listed(nats_account) == []
    await dead_letter(operator)
    [letter] = await listed(nats_account)
    assert letter["subject"] == SUBJECT
    assert letter["reason"] == "it cannot be handled"
    assert letter["body"] == json.loads(BODY)
    shown = await webhost(nats_account, "show", str(letter["seq"]))
    assert json.loads(shown.stdout) == letter
    missing = await webhost(nats_account, "show", "99")
    assert (missing.returncode, missing.stderr) == (4, "webhost: no dead letter 99\n")


async def test_a_replayed_one_is_where_it_came_from_and_no_longer_dead(
    operator: Client, nats_account: str
) -> None:
    # As its relay published it, with the message id that the server still remembers.
    await operator.jetstream().publish(
        SUBJECT, BODY, headers={subjects.MESSAGE_ID_HEADER: f"of-{SUBJECT}"}
    )
    await operator.jetstream().purge_stream(subjects.COMMANDS)
    await dead_letter(operator)
    await dead_letter(operator, "cmd.deployer.deploy.dep_2")
    replayed = await webhost(nats_account, "replay", "1")
    assert replayed.stdout == f"1 replayed on {SUBJECT}\n"
    again = await operator.jetstream().get_last_msg(subjects.COMMANDS, SUBJECT)
    assert again.data == BODY
    assert again.headers is not None
    assert again.headers[subjects.TYPE_HEADER] == "deployment.deploy.v1"
    assert subjects.DEAD_REASON_HEADER not in again.headers
    assert [letter["seq"] for letter in await listed(nats_account)] == [2]


@pytest.mark.accept("6.D1")
async def test_no_header_of_a_dead_letter_says_where_it_is_replayed(
    operator: Client, nats_account: str
) -> None:
    elsewhere = "evt.usr_1.account.usr_1"
    headers = {subjects.TYPE_HEADER: "account.tier_changed.v1", "Webhost-Dead-Subject": elsewhere}
    await operator.jetstream().publish(subjects.dead_letter(SUBJECT), BODY, headers=headers)
    assert (await webhost(nats_account, "replay", "1")).stdout == f"1 replayed on {SUBJECT}\n"
    assert (await operator.jetstream().stream_info(subjects.EVENTS)).state.messages == 0


async def test_all_are_replayed_at_once(operator: Client, nats_account: str) -> None:
    for number in range(3):
        await dead_letter(operator, f"cmd.deployer.deploy.dep_{number}")
    assert (await webhost(nats_account, "replay", "--all")).returncode == 0
    assert await listed(nats_account) == []
    state = (await operator.jetstream().stream_info(subjects.COMMANDS)).state
    assert state.messages == 3
