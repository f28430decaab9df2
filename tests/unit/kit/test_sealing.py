"""A sealed value opens for what it was sealed for, with the right key, and for nothing else."""

import secrets

import pytest
from webhost_kit.keys import base64url
from webhost_kit.sealing import CannotOpen, Opener, Owner, Sealer, public_half

KEY, OTHER_KEY = secrets.token_bytes(32), secrets.token_bytes(32)
SEALER = Sealer.parse(f"s2:{base64url(public_half(KEY))}", "PUBLIC")
OPENER = Opener.parse(f"s2:{base64url(KEY)},s1:{base64url(OTHER_KEY)}", "PRIVATE")
OWNER = Owner("usr_1", "agt_1", "API_KEY")
VALUE = 'sk-é"\\\n\u2028 1'


@pytest.mark.accept("7.3.sealed")
def test_it_opens_for_its_owner() -> None:
    sealed = SEALER.seal(VALUE, OWNER)
    assert sealed.startswith("s2:")
    assert OPENER.open(sealed, OWNER) == VALUE
    assert SEALER.seal(VALUE, OWNER) != sealed
    assert VALUE not in sealed


@pytest.mark.accept("7.rotation.resealed")
def test_it_is_sealed_again_for_the_first_key_and_the_same_owner() -> None:
    before = Sealer.parse(f"s1:{base64url(public_half(OTHER_KEY))}", "PUBLIC").seal(VALUE, OWNER)
    again = OPENER.reseal(before, OWNER)
    assert Opener.parse(f"s2:{base64url(KEY)}", "PRIVATE").open(again, OWNER) == VALUE
    with pytest.raises(CannotOpen):
        OPENER.reseal(before, Owner("usr_2", "agt_1", "API_KEY"))


@pytest.mark.accept("7.3.sealed")
@pytest.mark.parametrize(
    "another",
    [
        Owner("usr_2", "agt_1", "API_KEY"),
        Owner("usr_1", "agt_2", "API_KEY"),
        Owner("usr_1", "agt_1", "API_KEY2"),
    ],
)
def test_it_opens_for_no_other_user_agent_or_name(another: Owner) -> None:
    with pytest.raises(CannotOpen, match="was not sealed for this") as refused:
        OPENER.open(SEALER.seal(VALUE, OWNER), another)
    assert VALUE not in repr(refused.value)


@pytest.mark.accept("7.3.sealed")
def test_it_opens_with_no_other_key_and_no_bit_flipped() -> None:
    sealed = SEALER.seal(VALUE, OWNER)
    with pytest.raises(CannotOpen, match="no key s2"):
        Opener.parse(f"s1:{base64url(KEY)}", "PRIVATE").open(sealed, OWNER)
    with pytest.raises(CannotOpen):
        Opener.parse(f"s2:{base64url(OTHER_KEY)}", "PRIVATE").open(sealed, OWNER)
    flipped = sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]
    for broken in (flipped, sealed[:60], "s2:", "s2:!", ""):
        with pytest.raises(CannotOpen):
            OPENER.open(broken, OWNER)
