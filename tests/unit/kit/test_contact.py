"""What a server's word about a stream is worth, by what it says of the stream's servers."""

import math
from datetime import UTC, datetime

import pytest
from nats.errors import Error as NatsError
from nats.js.api import ClusterInfo, PeerInfo, StreamConfig, StreamInfo, StreamState
from webhost_kit.bus.contact import LEASE_S, require_led, silence_s


def info(cluster: ClusterInfo | None) -> StreamInfo:
    return StreamInfo(
        config=StreamConfig(name="EVENTS"),
        state=StreamState(messages=0, bytes=0, first_seq=0, last_seq=0, consumer_count=0),
        cluster=cluster,
        created=datetime.now(UTC),
    )


def led(*silences_s: float, leader: str | None = "one") -> StreamInfo:
    peers = [
        PeerInfo(name=str(number), current=False, active=int(silence * 1e9))
        for number, silence in enumerate(silences_s)
    ]
    return info(ClusterInfo(leader=leader, name="webhost", replicas=peers))


@pytest.mark.parametrize(
    ("said", "silence"),
    [
        pytest.param(info(None), 0, id="one server"),
        pytest.param(led(), 0, id="one copy in a cluster"),
        pytest.param(led(1, 9), 1, id="two of three"),
        pytest.param(led(20, 9), 9, id="one of three"),
        pytest.param(led(0, 9), 9, id="one was never heard"),
        pytest.param(led(0, 0), math.inf, id="nobody was"),
        pytest.param(led(1, 2, 8, 9), 2, id="three of five"),
        pytest.param(led(1, 9, 8, 7), 7, id="two of five"),
        pytest.param(led(1, 1, leader=None), math.inf, id="nobody leads"),
    ],
)
def test_who_leads_is_believed_while_a_majority_is_heard(said: StreamInfo, silence: float) -> None:
    assert silence_s(said) == silence
    if silence <= LEASE_S:
        assert require_led(said) is said
    else:
        with pytest.raises(NatsError, match="who leads EVENTS is not known"):
            require_led(said)


def test_who_is_current_at_this_moment_is_heard() -> None:
    peers = [PeerInfo(name="two", current=True, active=0)]
    assert silence_s(info(ClusterInfo(leader="one", name="webhost", replicas=peers))) == 0
