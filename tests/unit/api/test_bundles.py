"""What is in an archive, and what may not be."""

import gzip
import io
import json
import re
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhost_api import bundles
from webhost_api.archives.entries import MAX_ISSUES, MAX_UNPACKED_BYTES
from webhost_api.bundles import Packed
from webhost_contracts import wire
from webhost_contracts.artifacts import Bundle, checksum_of
from webhost_kit.errors import InvalidRequest

from tests.support.bundles import (
    MAIN,
    MANIFEST,
    REFUSED,
    WASM,
    Files,
    entry,
    good_files,
    manifest,
    tar,
    tarred,
    zipped,
)

GOOD = {
    "lib/words.js": "export const words = ['é', '\U0001f600', '\\u0000'];\n",
    "data/config.json": '{"__proto__": {"a": 1}}',
    "prompt.txt": "Be brief.\r\n\ttab \x01 \u2028",
    "lib/add.wasm": WASM,
}


def modules(packed: Packed) -> dict[str, bytes]:
    return {it.name: it.body for it in wire.decode(packed.body, Bundle).modules}


@pytest.mark.accept("7.4.bundles")
@pytest.mark.parametrize("packer", [zipped, tarred, partial(tarred, prefix="./")])
def test_a_bundle_is_what_was_packed(packer: Callable[[Files], bytes]) -> None:
    packed = bundles.read(packer(good_files(**GOOD)))
    expected = {**good_files(**GOOD)}
    del expected[MANIFEST]
    as_bytes = {k: v.encode() if isinstance(v, str) else v for k, v in expected.items()}
    assert modules(packed) == as_bytes
    assert packed.module_names == tuple(sorted(expected))
    assert packed.manifest.entrypoint == "main.mjs"
    assert packed.artifact.checksum == checksum_of(packed.body)
    assert packed.artifact.size_bytes == len(packed.body)


@pytest.mark.accept("7.4.bundles")
def test_the_artifact_is_canonical() -> None:
    """Equal modules are one artifact, whatever packed them, and in whichever order."""
    files = good_files(**GOOD)
    packed = bundles.read(zipped(files))
    assert packed.body == wire.encode(wire.decode(packed.body, Bundle))
    backwards = dict(reversed(files.items()))
    assert bundles.read(tarred(backwards)).artifact == packed.artifact


@pytest.mark.accept("7.4.bundles")
def test_text_is_packed_in_parts_that_cut_no_character() -> None:
    text = "x" + "\U0001f600" * 600_000
    packed = bundles.read(zipped(good_files(**{"t.txt": text})))
    assert packed.body == wire.encode(wire.decode(packed.body, Bundle))
    assert modules(packed)["t.txt"] == text.encode()


def test_a_bundle_of_before_is_the_same_artifact() -> None:
    stored = b'{"modules":[{"name":"agent.mjs","content":"export default {};"}]}'
    bundle = wire.decode(stored, Bundle)
    assert bundle.modules[0].body == b"export default {};"
    assert wire.encode(bundle) == stored


@pytest.mark.accept("7.4.bundles")
def test_folders_are_fine() -> None:
    made = tar(
        entry("./", type=b"5"),
        entry("./lib/", type=b"5"),
        *(entry(f"./{name}", content) for name, content in good_files().items()),
    )
    assert bundles.read(gzip.compress(made)).module_names == ("main.mjs",)
    assert bundles.read(zipped(good_files(**{"lib/": ""}))).module_names == ("main.mjs",)


@pytest.mark.accept("7.4.bundles")
def test_what_packers_say_of_all_files_and_of_each_is_fine() -> None:
    packed = io.BytesIO()
    commit = {"comment": "0123456789" * 4}
    with tarfile.open(fileobj=packed, mode="w", pax_headers=commit) as archive:
        for name, content in good_files().items():
            times = {"mtime": "1767225600.123456789", "LIBARCHIVE.xattr.com.apple.x": "Y2E" * 200}
            info, body = entry(name, content, pax_headers=times)
            archive.addfile(info, io.BytesIO(body))
    assert bundles.read(gzip.compress(packed.getvalue())).module_names == ("main.mjs",)


@pytest.mark.accept("7.5.corpus")
def test_an_entry_of_two_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from Python 3.12 on, which takes the second name from an extra field."""
    infolist = zipfile.ZipFile.infolist

    def with_second_names(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = infolist(archive)
        entries[-1].filename = "../up.mjs"
        return entries

    archive = zipped(good_files())
    monkeypatch.setattr(zipfile.ZipFile, "infolist", with_second_names)
    with pytest.raises(InvalidRequest) as refused:
        bundles.read(archive)
    assert "damaged" in refused.value.details["issues"][0]["message"]


@pytest.mark.accept("7.4.bundles")
def test_the_limits_are_what_they_say() -> None:
    many = {f"m{number}.js": "" for number in range(498)}
    assert len(bundles.read(zipped(good_files(**many))).module_names) == 499
    size = MAX_UNPACKED_BYTES - sum(len(it) for it in good_files().values())
    assert bundles.read(tarred(good_files(**{"pad.txt": b" " * size})))
    with pytest.raises(InvalidRequest):
        bundles.read(zipped(good_files(**{"pad.txt": b" " * (size + 1)})))


@pytest.mark.accept("7.5.corpus")
@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_archive_is_refused(case: str) -> None:
    made, says = REFUSED[case]
    archive = made()
    began = time.process_time()
    with pytest.raises(InvalidRequest) as refused:
        bundles.read(archive)
    assert time.process_time() - began < 5
    issues = refused.value.details["issues"]
    assert 0 < len(issues) <= MAX_ISSUES
    assert re.search(says, issues[0]["message"]), issues
    for issue in issues:
        for part in issue["path"]:
            assert str(part).isascii()
            assert str(part).isprintable()
            assert len(str(part)) <= 110


@pytest.mark.accept("7.5.corpus")
@pytest.mark.parametrize(
    "case",
    [
        *("one bomb in zip", "directory bomb that says it is small", "bomb of escapes"),
        *("global headers of many keywords", "map of a sparse file"),
    ],
)
def test_a_bomb_takes_bounded_memory(case: str) -> None:
    archive = REFUSED[case][0]()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            bundles.read(archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * 1024 * 1024


def test_issues_are_bounded_and_name_each_entry() -> None:
    files = good_files(**{f"bad{number}.exe": "" for number in range(30)})
    with pytest.raises(InvalidRequest) as refused:
        bundles.read(zipped(files))
    paths = [issue["path"] for issue in refused.value.details["issues"]]
    assert paths == [[f"bad{n}.exe"] for n in sorted(range(30), key=str)][:MAX_ISSUES]


@pytest.mark.accept("7.4.manifest")
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"protocol": "invoke/v2"}, ["protocol"]),
        ({"protocol": None}, ["protocol"]),
        ({"runtime": "agentcore"}, ["runtime"]),
        ({"entrypoint": None}, ["entrypoint"]),
        ({"entrypoint": 1}, ["entrypoint"]),
        ({"entrypoint": "../main.mjs"}, ["entrypoint"]),
        ({"entrypoint": "webhost-agent.mjs"}, ["entrypoint"]),
        ({"entryPoint": "main.mjs"}, ["entryPoint"]),
        ({"env": {"requiredKeys": ["lower"]}}, ["env", "requiredKeys", 0]),
        ({"env": {"requiredKeys": ["USER_ID"]}}, ["env", "requiredKeys", 0]),
        ({"env": {"optionalKeys": ["OK", "WEBHOST_X"]}}, ["env", "optionalKeys", 1]),
        ({"env": {"optionalKeys": ["A", "A"]}}, ["env", "optionalKeys"]),
        ({"env": {"requiredKeys": ["A"], "optionalKeys": ["A"]}}, ["env"]),
        ({"env": {"required_keys": ["A"]}}, ["env", "required_keys"]),
        ({"env": {"keys": []}}, ["env", "keys"]),
        ({"capabilities": {"streaming": "yes"}}, ["capabilities", "streaming"]),
        ({"capabilities": {"images": True}}, ["capabilities", "images"]),
    ],
)
def test_a_wrong_manifest_is_refused_at_its_field(
    fields: dict[str, Any], path: list[str | int]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bundles.read(zipped({**good_files(), MANIFEST: manifest(**fields)}))
    assert [MANIFEST, *path] in [issue["path"] for issue in refused.value.details["issues"]]


@pytest.mark.accept("7.4.manifest")
def test_a_whole_manifest_is_read() -> None:
    whole = manifest(
        env={"requiredKeys": ["API_KEY"], "optionalKeys": ["TONE"]},
        capabilities={"streaming": True, "tools": False},
    )
    read = bundles.read(zipped({**good_files(), MANIFEST: whole})).manifest
    assert read.model_dump(by_alias=True) == json.loads(whole)


SAMPLES = [zipped(good_files(**GOOD)), tarred(good_files(**GOOD))]
SAMPLE_TAR = gzip.decompress(SAMPLES[1])


@st.composite
def mutated(draw: st.DrawFn, sample: bytes) -> bytes:
    body = bytearray(sample)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        match draw(st.sampled_from(["flip", "write", "cut", "double", "insert"])):
            case "flip":
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "write":
                new = draw(st.binary(min_size=1, max_size=8))
                body[at : at + len(new)] = new
            case "cut":
                del body[at : at + draw(st.integers(1, 64))]
            case "double":
                body[at:at] = body[at : at + draw(st.integers(1, 600))]
            case _:
                body[at:at] = draw(st.binary(min_size=1, max_size=16))
        if not body:
            break
    return bytes(body)


@pytest.mark.accept("7.5.corpus")
@settings(max_examples=300)
@given(st.one_of(mutated(SAMPLES[0]), mutated(SAMPLES[1]), mutated(SAMPLE_TAR).map(gzip.compress)))
def test_what_was_tampered_with_is_refused_or_a_whole_bundle(archive: bytes) -> None:
    try:
        packed = bundles.read(archive)
    except InvalidRequest:
        pass
    else:
        assert packed.body == wire.encode(wire.decode(packed.body, Bundle))
        assert packed.manifest.entrypoint in modules(packed)


def test_the_sample_passes() -> None:
    assert MAIN.encode() in modules(bundles.read(SAMPLES[0])).values()
