"""What is there, whose it is, and who says so: the streams' declaration."""

from unittest.mock import AsyncMock

import pytest
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError, ServiceUnavailableError
from webhost_contracts import subjects
from webhost_kit.bus import streams

NO_LEADER = ServiceUnavailableError(code=503, err_code=10008, description="no leader")
"""What a server of a cluster answers while it knows of none."""
NOBODY = ServiceUnavailableError(code=503)
"""What comes where nobody listens: the stream is another service's."""


async def declare(**told: object) -> AsyncMock:
    js = AsyncMock()
    js.stream_info.side_effect = told.get("info")
    js.add_stream.side_effect = told.get("add")
    js.create_key_value.side_effect = told.get("add")
    js.create_object_store.side_effect = told.get("add")
    await streams.declare(js, 3)
    return js


@pytest.mark.accept("10.cluster")
async def test_without_a_leader_nothing_is_taken_for_anothers() -> None:
    with pytest.raises(NatsError):
        await declare(info=NO_LEADER)
    with pytest.raises(NatsError):
        await declare(info=NotFoundError(code=404), add=NO_LEADER)


async def test_what_is_anothers_is_left_to_it() -> None:
    assert (await declare(info=NOBODY)).add_stream.await_count == 0
    await declare(info=NotFoundError(code=404), add=NOBODY)


async def test_what_is_missing_is_made_with_its_copies() -> None:
    js = await declare(info=NotFoundError(code=404))
    made = [call.args[0] for call in js.add_stream.await_args_list]
    assert {config.num_replicas for config in made} == {3}
    buckets = {subjects.TOTALS_STREAM, subjects.ARTIFACTS_STREAM}
    assert {config.name for config in made} == {*streams.NAMES} - buckets
    assert js.create_key_value.await_count == js.create_object_store.await_count == 1
