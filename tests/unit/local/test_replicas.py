"""How many of each service, as `webhost up` is told."""

import pytest
from webhost_local import replicas


def test_one_of_each_but_of_what_is_named() -> None:
    found = replicas.parse(" gateway=2, billing = 3 ,")
    assert found["gateway"] == ["gateway", "gateway-2"]
    assert found["billing"] == ["billing", "billing-2", "billing-3"]
    assert found["telemetry-ingest"] == ["telemetry-ingest"]
    assert replicas.one_of_each() == replicas.parse("gateway=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gatway=2", "no service 'gatway'; the services are gateway, api"),
        ("nats=3", "no service 'nats'"),
        ("gateway=0", "gateway=0: of each service there are 1 to 9"),
        ("gateway=10", "gateway=10: of each service there are 1 to 9"),
        ("gateway=-1", "1 to 9"),
        ("gateway=two", "1 to 9"),
        ("gateway=²", "1 to 9"),
        ("gateway", "1 to 9"),
        ("=2", "no service ''"),
        (" ", "name services and numbers"),
        ("gateway=2,gateway=3", "gateway is there twice"),
    ],
)
def test_what_cannot_be_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replicas.parse(text)
