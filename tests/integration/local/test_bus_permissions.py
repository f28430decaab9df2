"""Each service's allow-list on the bus: what is not on it is refused, and the refusal is seen."""

import re
from collections.abc import Iterable
from time import monotonic

import nats
import pytest
from nats.errors import TimeoutError as NatsTimeout
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from webhost_contracts import maintenance, subjects
from webhost_contracts.maintenance import KeysReply, Nothing
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus, connect, inbox_prefix
from webhost_kit.errors import Unavailable
from webhost_local.installation.bus_accounts import STREAMS
from webhost_local.installation.services import OPERATOR, SERVICES

from tests.integration.local.conftest import StackBus
from tests.integration.local.test_bus_accounts import FACTS, REQUESTS, RPCS
from tests.support.deadline import eventually

NOBODY = set[str]()
EVERYBODY = set(SERVICES)
LOOKS = {
    f"$JS.API.STREAM.{verb}.{stream}": EVERYBODY
    for verb in ("INFO", "CREATE")
    for stream in STREAMS
}
"""What is asked of every stream, and answered where the stream is for who asks."""
PUBLISHED = {
    **FACTS,
    **{f"$JS.API.{request}": services for request, services in REQUESTS.items()},
    **LOOKS,
    **RPCS,
    **{
        f"$JS.ACK.{stream}.c.1.1.1.1.1": {"deployer"} if stream == "COMMANDS" else NOBODY
        for stream in STREAMS
    },
    f"$JS.FC.{subjects.ARTIFACTS_STREAM}.c.x": {"api", "deployer"},
    "$JS.API.INFO": EVERYBODY,
    "$SYS.REQ.SERVER.PING": NOBODY,
    "_INBOX.api.x": NOBODY,
    "_INBOX.operator.x": NOBODY,
    "anything": NOBODY,
}
"""Every subject that anybody needs, and others: by whom it may be published."""
HEARD = {
    **dict.fromkeys([">", "*", "$JS.>", "$SYS.>", *STREAMS.values()], NOBODY),
    **{f"rpc.{name}.>": {name} for name in SERVICES},
    **{f"_INBOX.{name}.>": {name} for name in SERVICES},
    "_INBOX.>": NOBODY,
    "rpc.>": NOBODY,
}
"""Every pattern that anybody listens on, and others: who may."""
_REFUSAL = re.compile('permissions violation for (publish|subscription) to "(.*?)"', re.IGNORECASE)


async def refused(bus: StackBus, service: str, published: Iterable[str]) -> set[str]:
    """What of these the server refuses the service to publish, and of HEARD to hear."""
    found: set[str] = set()

    async def on_error(error: Exception) -> None:
        [(action, subject)] = _REFUSAL.findall(str(error))
        found.add(f"{action} {subject}")

    async with await nats.connect(
        bus.url(service), inbox_prefix=inbox_prefix(service), error_cb=on_error
    ) as client:
        for subject in published:
            await client.publish(subject, b"nonsense")
        for pattern in HEARD:
            await client.subscribe(pattern)
        # A flush would overtake them; an answer comes behind what the server said before.
        await client.request("$JS.API.INFO", b"", timeout=5)
    return found


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", SERVICES)
async def test_all_that_a_service_does_not_need_is_refused(
    service: str, stack_bus: StackBus
) -> None:
    await (await connect(stack_bus.url(OPERATOR), OPERATOR)).close()  # made the streams
    expected = {
        f"{action} {subject}"
        for action, matrix in (("publish", PUBLISHED), ("subscription", HEARD))
        for subject, services in matrix.items()
        if service not in services
    }
    found = await refused(stack_bus, service, PUBLISHED)
    assert found == {line.lower() for line in expected}
    # and the server logs each
    logged = re.findall(
        f'"{service}/user:{service}" - Publish Violation - Subject "(.*?)"',
        stack_bus.log.read_text(),
    )
    assert set(logged) == {s for s, services in PUBLISHED.items() if service not in services}


def refusals(action: str) -> float:
    return REGISTRY.get_sample_value("webhost_bus_refusals_total", {"action": action}) or 0


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("action", ["publish", "subscription"])
async def test_a_refusal_is_logged_and_counted_within_a_second(
    action: str, stack_bus: StackBus
) -> None:
    forged = "evt.usr_1.account.usr_1"
    gateway = await connect(stack_bus.url("gateway"), "gateway")
    before = refusals(action)
    with capture_logs() as logged:
        if action == "publish":
            await gateway.client.publish(forged, b"a value")
        else:
            await gateway.client.subscribe(forged)
        await eventually(lambda: seen(action, before), "the refusal to be counted", seconds=1)
    assert [line for line in logged if line["event"].startswith("refused")] == [
        {"event": "refused by the bus", "log_level": "error", "action": action, "subject": forged}
    ]
    await gateway.close()


async def seen(action: str, before: float) -> bool:
    return refusals(action) == before + 1


@pytest.mark.accept("6.D1")
async def test_who_waits_for_an_answer_to_what_is_refused_is_told_in_time(
    stack_bus: StackBus,
) -> None:
    gateway: Bus = await connect(stack_bus.url("gateway"), "gateway")
    began = monotonic()
    subject = maintenance.subject("api", maintenance.REPLAY)
    with pytest.raises(Unavailable):
        await rpc.call(gateway, subject, Nothing(), KeysReply, timeout_s=0.5)
    with pytest.raises(NatsTimeout):
        await gateway.js.publish("evt.usr_1.account.usr_1", b"x", timeout=0.5)
    assert monotonic() - began < 3
    await gateway.close()
