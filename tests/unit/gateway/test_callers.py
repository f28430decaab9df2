"""Who calls, from memory: keys are checked once, and again when anything about them changed."""

import dataclasses
from typing import Any, cast

import pytest
from webhost_contracts.api_keys import hash_of, token_of
from webhost_gateway import callers
from webhost_gateway.callers import Callers
from webhost_gateway.routing.model import Key, RouteTable
from webhost_kit.clock import now_ms
from webhost_kit.errors import BadToken, Unavailable
from webhost_kit.http.auth import TokenVerifier

KEY_ID = "key_01kbbkb1z8e40r2081040g2081"
SECRET = bytes(32)
HEADER = f"Bearer {token_of(KEY_ID, SECRET)}"


class Memory:
    usable = True


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def routes() -> RouteTable:
    key = Key(1, "usr_1", scopes=("invoke",), secret_hash=hash_of(SECRET))
    return RouteTable(keys={KEY_ID: key})


@pytest.fixture
def here(memory: Memory, routes: RouteTable) -> Callers:
    return Callers(TokenVerifier("https://issuer.example"), routes, cast(Any, memory))


@pytest.mark.accept("7.keys.refused")
async def test_while_the_memory_is_not_current_no_key_is_good_or_bad(
    here: Callers, memory: Memory
) -> None:
    assert (await here.caller(HEADER)).user_id == "usr_1"
    memory.usable = False
    for header in (HEADER, f"Bearer {token_of(KEY_ID, bytes([1] * 32))}"):
        with pytest.raises(Unavailable):
            await here.caller(header)
    memory.usable = True
    assert (await here.caller(HEADER)).key_id == KEY_ID


async def test_a_remembered_key_is_hashed_once_until_it_changes(
    here: Callers, routes: RouteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = callers.api_keys.parse

    def counted(token: str) -> Any:
        parsed.append(token)
        return parse(token)

    monkeypatch.setattr(callers.api_keys, "parse", counted)
    first = await here.caller(HEADER)
    assert await here.caller(HEADER) is first
    assert len(parsed) == 1
    routes.keys[KEY_ID] = changed = dataclasses.replace(routes.keys[KEY_ID], version=2)
    assert (await here.caller(HEADER)).key is changed
    assert len(parsed) == 2
    routes.keys[KEY_ID] = dataclasses.replace(changed, version=3, revoked_at_ms=1)
    for _ in range(2):
        with pytest.raises(BadToken):
            await here.caller(HEADER)


@pytest.mark.accept("A9")
async def test_what_is_remembered_is_bounded(
    here: Callers, routes: RouteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "REMEMBERED_KEYS", 2)
    for number in range(5):
        key_id = f"key_{number:026}"
        routes.keys[key_id] = routes.keys[KEY_ID]
        await here.caller(f"Bearer {token_of(key_id, SECRET)}")
    assert len(here._checked) == 2


@pytest.mark.accept("7.keys.rotation")
async def test_the_secret_before_ends_with_its_key(here: Callers, routes: RouteTable) -> None:
    """However long the overlap is."""
    now = now_ms()
    routes.keys[KEY_ID] = dataclasses.replace(
        routes.keys[KEY_ID],
        secret_hash=hash_of(bytes([2] * 32)),
        previous_hash=hash_of(SECRET),
        previous_expires_at_ms=now + 60_000,
        expires_at_ms=now - 1,
    )
    for secret in (SECRET, bytes([2] * 32)):
        with pytest.raises(BadToken):
            await here.caller(f"Bearer {token_of(KEY_ID, secret)}")
