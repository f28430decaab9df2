"""Commands on the bus are for the service that handles them, whoever else has credentials."""

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import ConsumerConfig
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_local.installation.services import SERVICES

from tests.integration.local.conftest import BusUrl

CONSUMER = "deployer-deploy"
OTHERS = sorted(set(SERVICES) - {"deployer"})


async def pull(client: Client) -> Msg:
    """Return the next command. Raises NoRespondersError."""
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.COMMANDS}.{CONSUMER}"
    request = b'{"batch": 1, "no_wait": true}'
    # The answer has the command's own subject, by which a request of the new style is not found.
    return await client.request(subject, request, timeout=5, old_style=True)


async def acknowledge(client: Client, command: Msg) -> None:
    """Return when the acknowledgement has arrived. Raises NoRespondersError."""
    await client.request(command.reply, b"+ACK", timeout=5)


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", OTHERS)
async def test_no_other_service_takes_a_command_or_acknowledges_one(
    service: str, operator: Bus, bus_url: BusUrl
) -> None:
    # given a command that waits for the deployer
    await operator.js.publish("cmd.deployer.deploy.agt_1", b"deploy")
    await operator.js.add_consumer(subjects.COMMANDS, ConsumerConfig(durable_name=CONSUMER))
    async with (
        await nats.connect(bus_url(service)) as other,
        await nats.connect(bus_url("deployer")) as deployer,
    ):
        # when another service asks for it, then it gets nothing and the deployer does
        with pytest.raises(NoRespondersError):
            await pull(other)
        command = await pull(deployer)
        assert command.data == b"deploy"
        # when the other acknowledges what the deployer is at, then it is not acknowledged
        with pytest.raises(NoRespondersError):
            await acknowledge(other, command)
        assert (await operator.js.consumer_info(subjects.COMMANDS, CONSUMER)).num_ack_pending == 1
        await acknowledge(deployer, command)
        assert (await operator.js.consumer_info(subjects.COMMANDS, CONSUMER)).num_ack_pending == 0
