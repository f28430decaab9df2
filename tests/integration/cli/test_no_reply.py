"""What an operator is told of a request that no service answers."""

import asyncio

import nats
import pytest
from nats.aio.msg import Msg
from webhost_cli import bus
from webhost_cli.errors import CommandError, ExitCode
from webhost_contracts import deadlines, subjects
from webhost_contracts.rpc import SetAccountStatusReply, SetAccountStatusRequest
from webhost_kit.clock import now_ms

REQUEST = SetAccountStatusRequest(user_id="usr_1", status="disabled", operator="o")


def refusal(url: str) -> CommandError:
    async def asked() -> SetAccountStatusReply:
        async with bus.connected(url) as client:
            return await bus.ask(
                client,
                subjects.RPC_SET_ACCOUNT_STATUS,
                REQUEST,
                SetAccountStatusReply,
                timeout_s=0.7,
            )

    with pytest.raises(CommandError) as error:
        bus.run(asked())
    return error.value


async def test_a_wrong_password_is_no_outage(nats_account: str) -> None:
    refused = await asyncio.to_thread(refusal, nats_account.replace(":for-tests@", ":wrong@"))
    assert refused.exit_code == ExitCode.NOT_SIGNED_IN
    assert refused.envelope()["error"]["retryable"] is False


@pytest.mark.accept("7.3.late")
async def test_it_is_said_whether_it_may_have_been_done(nats_account: str) -> None:
    absent = await asyncio.to_thread(refusal, nats_account)
    assert "nothing was done" in str(absent)
    assert absent.exit_code == ExitCode.UNAVAILABLE

    received: list[Msg] = []

    async def receive(message: Msg) -> None:
        received.append(message)

    client = await nats.connect(nats_account)
    await client.subscribe(subjects.RPC_SET_ACCOUNT_STATUS, cb=receive)
    await client.flush()
    silent = await asyncio.to_thread(refusal, nats_account)
    await client.close()
    assert str(silent).startswith("billing has not answered within 0.7 s")
    assert "not done later" in str(silent)
    assert "Give the command again" in str(silent)
    assert silent.exit_code == ExitCode.UNAVAILABLE
    until_ms = deadlines.of(received[0].headers)
    assert until_ms is not None
    assert until_ms < now_ms(), "it was not to be done any more when that was said"
