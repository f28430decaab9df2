"""Keys: written in one way, derived in one way, never printed."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from webhost_contracts.signatures import (
    signed_bytes,
    telemetry_signature,
    telemetry_signature_matches,
)
from webhost_kit.keys import (
    MasterKeys,
    base64url,
    parse_shared_secrets,
    parse_signers,
    parse_symmetric_keys,
    public_keys,
)

SEED = base64url(bytes(range(32)))


@pytest.mark.accept("6.keys")
def test_a_telemetry_key_depends_on_version_deployment_and_generation() -> None:
    masters = MasterKeys.parse(f"1:{SEED},2:{base64url(bytes(32))}")
    keys = {
        masters.telemetry_key(version, deployment, generation)
        for version in (1, 2)
        for deployment in ("dep_1", "dep_2")
        for generation in (1, 2)
    }
    assert len(keys) == 8
    assert all(key is not None and len(key) == 32 for key in keys)
    assert masters.newest == 2
    assert masters.telemetry_key(3, "dep_1", 1) is None


def test_a_derived_key_never_changes() -> None:
    key = MasterKeys.parse(f"1:{SEED}").telemetry_key(1, "dep_1", 1)
    assert key is not None
    assert key.hex() == "e532e4a02280449f2bfc767b5f9bc66fdc02183e946a186bac7b585623d6c390"


@pytest.mark.parametrize("text", ["", "1", "1:short", f"one:{SEED}", f"{SEED}"])
def test_malformed_master_keys_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TELEMETRY_MASTER_KEYS"):
        MasterKeys.parse(text)


def test_a_signature_verifies_with_the_public_half() -> None:
    signers = parse_signers(f"k1:{SEED}", "INVOKE_PRIVATE_KEYS")
    header = signers[0].header(1_700_000_000_000, "dep_1", b"body")
    fields = dict(part.split("=", 1) for part in header.split(","))
    assert fields["kid"] == "k1"
    halves = public_keys(signers)
    assert set(halves) == {"k1"}
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(halves["k1"] + "="))
    public.verify(bytes.fromhex(fields["v1"]), signed_bytes(1_700_000_000_000, "dep_1", b"body"))


def test_symmetric_keys_keep_their_order_and_their_names_apart() -> None:
    keys = parse_symmetric_keys(f"b:{SEED},a:{base64url(bytes(32))}", "X")
    assert list(keys) == ["b", "a"]
    for text in (f"a:{SEED},a:{SEED}", "a", f"a:{base64url(bytes(31))}"):
        with pytest.raises(ValueError, match="X"):
            parse_symmetric_keys(text, "X")


def test_a_source_may_have_several_secrets_each_long_enough() -> None:
    long = base64url(bytes(40))
    assert parse_shared_secrets(f"a:{SEED},b:{long},a:{long}==", "X") == {
        "a": (bytes(range(32)), bytes(40)),
        "b": (bytes(40),),
    }
    for text in (f"a:{base64url(bytes(31))}", SEED, f":{SEED}", f"a:{SEED} ,b:", f"a:{SEED}!"):
        with pytest.raises(ValueError, match="X"):
            parse_shared_secrets(text, "X")


def test_keys_do_not_print() -> None:
    assert SEED not in repr(parse_signers(f"k1:{SEED}", "X"))
    assert repr(bytes(range(32))) not in repr(MasterKeys.parse(f"1:{SEED}"))


def test_telemetry_signatures_match_only_what_was_signed() -> None:
    header = telemetry_signature(b"k" * 32, b"body").encode()
    assert telemetry_signature_matches(b"k" * 32, b"body", header)
    assert not telemetry_signature_matches(b"k" * 32, b"bodY", header)
    assert not telemetry_signature_matches(b"x" * 32, b"body", header)
    assert not telemetry_signature_matches(b"k" * 32, b"body", header[3:])
    assert not telemetry_signature_matches(b"k" * 32, b"body", b"v1=\xff\xfe")
    assert not telemetry_signature_matches(b"k" * 32, b"body", header.upper())
