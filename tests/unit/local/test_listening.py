"""A stand-in listens on loopback alone, but inside of a container."""

import pytest
from webhost_local.listening import container_names, may_listen


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_loopback_always(host: str) -> None:
    assert may_listen(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_nothing_else_outside_of_a_container(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_NAMES", raising=False)
    assert not may_listen(host)


def test_every_address_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_NAMES", "issuer, sign-in")
    assert container_names() == ("issuer", "sign-in")
    assert may_listen("0.0.0.0")
