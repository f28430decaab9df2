"""Archives of bundles, good and hostile ones, made byte by byte where no packer would make them."""

import gzip
import io
import json
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

MANIFEST = "agent.config.json"
MAIN = "export default { invoke: () => 'packed' };\n"
WASM = bytes.fromhex(
    "0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b"
)
"""Exports `add(i32, i32)`."""

Files = Mapping[str, str | bytes]


def manifest(**fields: Any) -> str:
    """A manifest, with these fields in place of others; None leaves one out."""
    whole = {"protocol": "invoke/v1", "runtime": "cloudflare", "entrypoint": "main.mjs", **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not None})


def good_files(**more: str | bytes) -> dict[str, str | bytes]:
    """The files of a bundle that passes."""
    return {MANIFEST: manifest(), "main.mjs": MAIN, **more}


def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body, 1)


def zipped(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: Files, prefix: str = "") -> bytes:
    entries = [entry(prefix + name, content) for name, content in files.items()]
    return _gzipped(tar(*entries))


def entry(name: str, content: str | bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    body = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, body


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for info, body in entries:
            archive.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def _good_entries() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [entry(name, content) for name, content in good_files().items()]


def _zip_of(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in good_files().items():
            archive.writestr(name, content)
        change(archive)
    return packed.getvalue()


def _zip_with(name: str, content: str | bytes = "", mode: int = 0, method: int = 8) -> bytes:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = method
        archive.writestr(info, content)

    return _zip_of(add)


def _tar_with(name: str, content: str | bytes = b"", **fields: Any) -> bytes:
    return _gzipped(tar(*_good_entries(), entry(name, content, **fields)))


def _renamed(archive: bytes, old: bytes, new: bytes) -> bytes:
    """The zip archive with a name that no packer would write, of the same length."""
    assert len(old) == len(new)
    assert old in archive
    return archive.replace(old, new)


def _encrypted() -> bytes:
    archive = bytearray(zipped(good_files()))
    name = b"main.mjs"
    struct.pack_into("<H", archive, archive.index(name) - 30 + 6, 1)
    struct.pack_into("<H", archive, archive.rindex(name) - 46 + 8, 1)
    return bytes(archive)


def _wrong_crc() -> bytes:
    archive = bytearray(zipped(good_files()))
    for at in (archive.index(b"main.mjs") - 30 + 14, archive.rindex(b"main.mjs") - 46 + 16):
        struct.pack_into("<I", archive, at, 0xDEADBEEF)
    return bytes(archive)


def _lying_zip(size: int, declared: int) -> bytes:
    """A member of this size that says that it is `declared` bytes, with the CRC of those."""
    content = b" " * size
    archive = bytearray(zipped({**good_files(), "big.txt": content}))
    crc = zlib.crc32(content[:declared])
    local, central = archive.index(b"big.txt") - 30, archive.rindex(b"big.txt") - 46
    struct.pack_into("<I", archive, local + 14, crc)
    struct.pack_into("<I", archive, local + 22, declared)
    struct.pack_into("<I", archive, central + 16, crc)
    struct.pack_into("<I", archive, central + 24, declared)
    return bytes(archive)


def _two_names() -> bytes:
    """An entry whose own header names another file than the directory does."""
    archive = bytearray(zipped(good_files(**{"xyz.js": MAIN})))
    at = archive.index(b"xyz.js")
    archive[at : at + 6] = b"abc.js"
    return bytes(archive)


def _partly_stored_bomb() -> bytes:
    """Neither what is compressed nor what is not would be too much alone."""
    packed = io.BytesIO(zipped(good_files(**_bytes_of(1, 25 << 20))))
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("stored.txt", b" " * (6 << 20))
    return packed.getvalue()


def _zip_with_more_inside() -> bytes:
    """Behind the last member's compressed stream there are bytes that count as the member's."""
    archive = bytearray(zipped({**good_files(), "last.txt": "text"}))
    local, central = archive.index(b"last.txt") - 30, archive.rindex(b"last.txt") - 46
    (start,) = struct.unpack_from("<I", archive, len(archive) - 22 + 16)
    (size,) = struct.unpack_from("<I", archive, central + 20)
    for at in (local + 18, central + 20):
        struct.pack_into("<I", archive, at, size + 4)
    struct.pack_into("<I", archive, len(archive) - 22 + 16, start + 4)
    archive[start:start] = b"more"
    return bytes(archive)


def _overlapping_zip() -> bytes:
    """500 entries of the directory that all lead to the same megabyte."""
    files = {f"{number:04}.txt": b"" for number in range(490)}
    archive = bytearray(zipped({**good_files(), **files, "zzzz.txt": b" " * 1024 * 1024}))
    target = archive.index(b"zzzz.txt") - 30
    record = archive[archive.rindex(b"zzzz.txt") - 46 : archive.rindex(b"zzzz.txt")]
    for number in range(490):
        at = archive.rindex(f"{number:04}.txt".encode()) - 46
        changed = bytearray(record)
        struct.pack_into("<I", changed, 42, target)
        archive[at : at + 46] = changed
    return bytes(archive)


def _entry_in_an_entry() -> bytes:
    """The bytes of one entry are at once the content of another."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", "inner")
    inner = packed.getvalue()
    start = inner.rindex(b"inner.txt") - 46
    outer = _zip_with("outer.txt", inner[:start], method=zipfile.ZIP_STORED)
    record = bytearray(inner[start:-22])
    struct.pack_into("<I", record, 42, outer.index(inner[:start]))
    end = list(struct.unpack("<4s4H2LH", outer[-22:]))
    end[3], end[4], end[5] = end[3] + 1, end[4] + 1, end[5] + len(record)
    return outer[:-22] + record + struct.pack("<4s4H2LH", *end)


def _tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of the old form, its checksum right."""
    head = bytearray(512)
    head[: len(name)] = name
    head[100:108], head[124:136], head[156:157] = b"0000644\0", size.ljust(12, b"\0"), kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _negative_tar() -> bytes:
    """A size below zero leads back to the same header, again and again."""
    negative = b"\xff" * 10 + struct.pack(">h", -512)
    return _gzipped(_tar_header(b"main.mjs", negative) + bytes(2048))


def _negative_pax() -> bytes:
    info, body = entry("main.mjs", MAIN)
    info.pax_headers = {"size": "-1536"}
    return _gzipped(tar(*_good_entries()[:1], (info, body)))


def _deep_tar() -> bytes:
    """Long names for long names for long names."""
    link = _tar_header(b"././@LongLink", b"00000000001\0", b"L") + b"x".ljust(512, b"\0")
    return _gzipped(link * 5_000 + bytes(1024))


def _sparse_tar() -> bytes:
    """A file that is a terabyte of nothing."""
    info, body = entry("big.txt", b"0\n")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**40),
        "GNU.sparse.name": "big.txt",
    }
    return _gzipped(tar(*_good_entries(), (info, body)))


def _extended(kind: bytes, body: bytes) -> bytes:
    """A header that extends the next one, or all that follow."""
    header = _tar_header(b"./PaxHeaders/x", b"%011o\0" % len(body), kind)
    return header + body + bytes(-len(body) % 512)


def _extended_tar(*extended: bytes) -> bytes:
    """Each of these before a file."""
    files = (_tar_header(b"f%d.txt" % number, b"0") for number in range(len(extended)))
    pairs = [part for pair in zip(extended, files, strict=True) for part in pair]
    return _gzipped(b"".join(pairs) + tar(*_good_entries()))


def _keywords(names: range) -> bytes:
    """Records without a value, each of a name of its own."""
    return b"".join(b"10 %05x=\n" % name for name in names)


def _map_of_a_sparse_tar() -> bytes:
    """Behind the header there is a map of many pieces."""
    records = [b"GNU.sparse.major=1", b"GNU.sparse.minor=0"]
    head = b"".join(b"%d %b\n" % (len(one) + 4, one) for one in records)
    pieces = b"5000000\n" + b"1\n" * 10_000_000
    file = _tar_header(b"big.txt", b"%011o\0" % len(pieces)) + pieces + bytes(-len(pieces) % 512)
    return _gzipped(_extended(b"x", head) + file + tar(*_good_entries()))


def _cut_tar() -> bytes:
    """The gzip archive is whole; the tar archive inside of it ends in the middle of a file."""
    whole = tar(entry("main.mjs", "x" * 5_000), *_good_entries()[:1])
    return _gzipped(whole[:2_048])


def _tar_with_more_behind() -> bytes:
    return _gzipped(tar(*_good_entries()) + tar(entry("hidden.mjs", MAIN)))


def _many(count: int) -> dict[str, str | bytes]:
    return {**good_files(), **{f"m{number}.js": "" for number in range(count)}}


def _directory_bomb(said: int) -> bytes:
    """Entries that take the reader's memory before any of them is looked at."""
    archive = zipped({"x.js": ""})
    start = archive.rindex(b"x.js") - 46
    directory = archive[start:-22] * 50_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, said, said, len(directory), start, 0)
    return archive[:start] + directory + end


def _bytes_of(count: int, step: int = 1024 * 1024) -> dict[str, str | bytes]:
    return {f"pad{number}.txt": b" " * step for number in range(count)}


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "traversal in zip": (lambda: zipped(good_files(**{"../up.mjs": MAIN})), "leads out"),
    "traversal in tar": (lambda: tarred(good_files(**{"lib/../../up.mjs": MAIN})), "leads out"),
    "traversal of a folder": (lambda: _tar_with("../", type=tarfile.DIRTYPE), "leads out"),
    "absolute in zip": (lambda: zipped(good_files(**{"/etc/x.js": MAIN})), "absolute"),
    "absolute in tar": (lambda: tarred(good_files(**{"/etc/x.js": MAIN})), "absolute"),
    "drive letter": (lambda: zipped(good_files(**{"C:/x.js": MAIN})), "absolute"),
    "backslash": (lambda: zipped(good_files(**{"lib\\x.js": MAIN})), "backslash"),
    "backslash traversal": (lambda: tarred(good_files(**{"..\\x.js": MAIN})), "backslash"),
    "empty part": (lambda: zipped(good_files(**{"lib//x.js": MAIN})), "empty part"),
    "dot part": (lambda: zipped(good_files(**{"lib/./x.js": MAIN})), "empty part"),
    "dot before dot": (lambda: tarred(good_files(**{"././x.js": MAIN})), "empty part"),
    "long name": (lambda: tarred(good_files(**{"x" * 300 + ".js": MAIN})), "longer than"),
    "nul in a name": (
        lambda: _renamed(zipped(good_files(**{"xyz.js": MAIN})), b"xyz.js", b"x\0z.js"),
        "Rename it",
    ),
    "nul cuts a suffix": (
        lambda: _renamed(zipped(good_files(**{"x.js-exe": MAIN})), b"x.js-exe", b"x.js\0exe"),
        "Rename it",
    ),
    "control character": (lambda: tarred(good_files(**{"a\x1b[2Jb.js": MAIN})), "Rename it"),
    "newline": (lambda: zipped(good_files(**{"a\nb.js": MAIN})), "Rename it"),
    "right to left": (lambda: zipped(good_files(**{"a\u202esj.js": MAIN})), "Rename it"),
    "not NFC": (lambda: zipped(good_files(**{"e\u0301.js": MAIN})), "Rename it"),
    "full width": (lambda: tarred(good_files(**{"\uff4d.js": MAIN})), "Rename it"),
    "not UTF-8 in tar": (lambda: tarred(good_files(**{"\udcff.js": MAIN})), "Rename it"),
    "not UTF-8 in zip": (
        lambda: _renamed(zipped(good_files(**{"\u00e9\u00e9.js": MAIN})), b"\xc3\xa9", b"\xff\xff"),
        "damaged",
    ),
    "symbolic link in zip": (
        lambda: _zip_with("link.js", "/etc/passwd", stat.S_IFLNK | 0o777),
        "is a link",
    ),
    "symbolic link in tar": (
        lambda: _tar_with("link.js", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is a link",
    ),
    "hard link in tar": (
        lambda: _tar_with("link.js", type=tarfile.LNKTYPE, linkname="main.mjs"),
        "is a link",
    ),
    "fifo in zip": (lambda: _zip_with("pipe.js", "", stat.S_IFIFO | 0o666), "neither a file"),
    "fifo in tar": (lambda: _tar_with("pipe.js", type=tarfile.FIFOTYPE), "neither a file"),
    "device in zip": (lambda: _zip_with("null.js", "", stat.S_IFCHR | 0o666), "neither a file"),
    "character device in tar": (lambda: _tar_with("n.js", type=tarfile.CHRTYPE), "neither a file"),
    "block device in tar": (lambda: _tar_with("sda.js", type=tarfile.BLKTYPE), "neither a file"),
    "contiguous file in tar": (lambda: _tar_with("c.js", type=tarfile.CONTTYPE), "neither a file"),
    "unknown type in tar": (lambda: _tar_with("z.js", type=b"Z"), "neither a file"),
    "sparse file in tar": (_sparse_tar, "neither a file"),
    "folder that is a file": (lambda: _zip_with("lib/", "x", stat.S_IFREG), "neither a file"),
    "file that is a folder": (lambda: _zip_with("x.js", "", stat.S_IFDIR), "neither a file"),
    "folder with content": (lambda: _zip_with("lib/", "hidden"), "neither a file"),
    "one bomb in zip": (lambda: zipped(good_files(**_bytes_of(1, 31 << 20))), "more than 30 MiB"),
    "one bomb in tar": (lambda: tarred(good_files(**_bytes_of(1, 31 << 20))), "more than 30 MiB"),
    "partly stored bomb": (_partly_stored_bomb, "more than 30 MiB"),
    "many make a bomb": (lambda: zipped(good_files(**_bytes_of(31))), "more than 30 MiB"),
    "bomb behind the tar": (
        lambda: _gzipped(tar(*_good_entries()) + bytes(40 << 20)),
        "more than 30 MiB",
    ),
    "bomb that says it is small": (lambda: _lying_zip(40 << 20, 100), "more than 30 MiB"),
    "bomb that says it is large": (lambda: _lying_zip(40 << 20, 2**31), "more than 30 MiB"),
    "file that says it is smaller": (lambda: _lying_zip(10_000, 100), "damaged"),
    "file that says it is larger": (lambda: _lying_zip(10_000, 10_001), "damaged"),
    "bomb by overlap": (_overlapping_zip, "damaged"),
    "entry in an entry": (_entry_in_an_entry, "damaged"),
    "bomb of escapes": (
        lambda: zipped(good_files(**{"x.txt": b"\x01" * (11 << 20)})),
        "mostly characters",
    ),
    "too many in zip": (lambda: zipped(_many(500)), "more than 500 files"),
    "too many in tar": (lambda: tarred(_many(500)), "more than 500 files"),
    "too many folders": (
        lambda: _gzipped(
            tar(*_good_entries(), *[entry(f"d{n}/", type=tarfile.DIRTYPE) for n in range(1_000)])
        ),
        "more than 500 files",
    ),
    "directory bomb": (lambda: _directory_bomb(50_000), "more than 500 files"),
    "directory bomb that says it is small": (lambda: _directory_bomb(1), "more than 500 files"),
    "duplicate in zip": (
        lambda: _renamed(zipped(good_files(**{"twin.mjs": MAIN})), b"twin.mjs", b"main.mjs"),
        "two files",
    ),
    "duplicate in tar": (lambda: _tar_with("main.mjs", MAIN), "two files"),
    "duplicate behind dot": (lambda: _tar_with("./main.mjs", MAIN), "two files"),
    "duplicate by case": (lambda: zipped(good_files(**{"MAIN.mjs": MAIN})), "two files"),
    "two manifests": (lambda: _tar_with(MANIFEST, manifest(entrypoint="evil.mjs")), "two files"),
    "executable": (lambda: zipped(good_files(**{"run.sh": "#!/bin/sh"})), "Only .js"),
    "nested archive": (lambda: zipped(good_files(**{"in.zip": zipped(_many(1))})), "Only .js"),
    "TypeScript": (lambda: zipped(good_files(**{"main.ts": MAIN})), "Only .js"),
    "no suffix": (lambda: zipped(good_files(LICENSE="MIT")), "Only .js"),
    "suffix in upper case": (lambda: zipped(good_files(**{"X.JS": MAIN})), "Only .js"),
    "dotenv": (lambda: zipped(good_files(**{".env": "KEY=value"})), "Only .js"),
    "slash behind a file": (lambda: _tar_with("x.js/", MAIN), "empty part"),
    "platform's name": (lambda: zipped(good_files(**{"webhost-agent.mjs": MAIN})), "platform's"),
    "platform's name by case": (
        lambda: zipped(good_files(**{"Webhost-Customer.mjs": MAIN})),
        "platform's",
    ),
    "not WebAssembly": (lambda: zipped(good_files(**{"x.wasm": MAIN})), "not WebAssembly"),
    "not JSON": (lambda: zipped(good_files(**{"x.json": "{"})), "not JSON"),
    "JSON and more": (lambda: zipped(good_files(**{"x.json": "{} {}"})), "not JSON"),
    "deep JSON": (lambda: zipped(good_files(**{"x.json": "[" * 200_000})), "not JSON"),
    "not UTF-8 text": (lambda: zipped(good_files(**{"x.txt": b"\xff\xfe"})), "not UTF-8"),
    "half a character": (lambda: zipped(good_files(**{"x.js": b"//\xc3"})), "not UTF-8"),
    "surrogate": (lambda: zipped(good_files(**{"x.js": b"//\xed\xa0\x80"})), "not UTF-8"),
    "encrypted": (_encrypted, "encrypted"),
    "wrong checksum": (_wrong_crc, "damaged"),
    "bzip2 inside": (
        lambda: _zip_with("x.js", MAIN, method=zipfile.ZIP_BZIP2),
        "way that is not read",
    ),
    "lzma inside": (
        lambda: _zip_with("x.js", MAIN, method=zipfile.ZIP_LZMA),
        "way that is not read",
    ),
    "zip with more inside of a member": (_zip_with_more_inside, "damaged"),
    "zip with two names for an entry": (_two_names, "damaged"),
    "zip in parts": (lambda: _in_parts(), "in parts"),
    "zip cut at its end": (lambda: zipped(good_files())[:-10], "not complete"),
    "zip cut in its middle": (lambda: zipped(good_files())[:100], "not complete"),
    "zip with something behind": (lambda: zipped(good_files()) + b"more", "before or behind"),
    "zip behind a zip": (lambda: zipped(good_files()) + zipped(_many(2)), "before or behind"),
    "zip with a comment that is a zip": (lambda: _commented(), "before or behind"),
    "empty zip": (lambda: zipped({}), "needs a file agent.config.json"),
    "gzip cut": (lambda: tarred(good_files())[:-6], "not complete"),
    "gzip cut to its head": (lambda: tarred(good_files())[:12], "not complete"),
    "gzip with something behind": (lambda: tarred(good_files()) + b"more", "behind the gzip"),
    "gzip with zeros behind": (lambda: tarred(good_files()) + bytes(512), "behind the gzip"),
    "two gzip members": (lambda: tarred(good_files()) * 2, "behind the gzip"),
    "gzip with a wrong checksum": (lambda: _wrong_gzip(), "damaged"),
    "gzip of no tar": (lambda: _gzipped(b"export default 1" * 200), "damaged"),
    "gzip of a zip": (lambda: _gzipped(zipped(good_files())), "damaged"),
    "gzip of nothing": (lambda: _gzipped(b""), "damaged"),
    "tar cut": (_cut_tar, "damaged"),
    "tar without an end": (lambda: _gzipped(tar(*_good_entries())[:2_048]), "damaged"),
    "tar behind a tar": (_tar_with_more_behind, "damaged"),
    "size below zero": (_negative_tar, "damaged"),
    "size below zero by pax": (_negative_pax, "damaged"),
    "extended header of digits": (
        lambda: _extended_tar(_extended(b"x", b"1" * 100_000)),
        "ustar",
    ),
    "extended headers of digits": (
        lambda: _extended_tar(*[_extended(b"x", b"1" * 1024)] * 900),
        "ustar",
    ),
    "extended header of a size below zero": (
        lambda: _extended_tar(
            _tar_header(b"x", b"\xff" * 10 + struct.pack(">h", -1024), b"x"), b"1" * 200_000
        ),
        "ustar",
    ),
    "keywords that lead to each other": (
        lambda: _extended_tar(_extended(b"x", b"3 x" * 10_000 + b"=\n")),
        "ustar",
    ),
    "global header of many keywords": (
        lambda: _extended_tar(_extended(b"g", _keywords(range(50_000))), *[b""] * 400),
        "ustar",
    ),
    "global headers of many keywords": (
        lambda: _extended_tar(
            *[_extended(b"g", _keywords(range(at, at + 100))) for at in range(0, 90_000, 100)]
        ),
        "ustar",
    ),
    "extended header behind a false size": (
        lambda: _gzipped(
            _extended(b"x", b"12 size=512\n")
            + _tar_header(b"f.txt", b"%011o\0" % 2_000_000)
            + bytes(512)
            + _extended(b"x", b"1" * 100_000)
            + tar(*_good_entries())
        ),
        "ustar",
    ),
    "map of a sparse file": (_map_of_a_sparse_tar, "neither a file"),
    "names nested for ever": (_deep_tar, "damaged"),
    "plain tar": (lambda: tar(*_good_entries()), "no zip and no tar.gz"),
    "bzip2 tar": (lambda: b"BZh91AY&SY" + bytes(50), "no zip and no tar.gz"),
    "not an archive": (lambda: MAIN.encode(), "no zip and no tar.gz"),
    "nothing": (lambda: b"", "no zip and no tar.gz"),
    "no manifest": (lambda: zipped({"main.mjs": MAIN}), "needs a file agent.config.json"),
    "manifest in a folder": (
        lambda: zipped({f"agent/{name}": content for name, content in good_files().items()}),
        "It is in agent/: pack the files from inside",
    ),
    "manifest is no JSON": (lambda: zipped({**good_files(), MANIFEST: "{"}), "JSON"),
    "manifest is a list": (lambda: zipped({**good_files(), MANIFEST: "[]"}), "object"),
    "manifest is large": (
        lambda: zipped({**good_files(), MANIFEST: manifest() + " " * 70_000}),
        "larger than",
    ),
    "entrypoint is missing": (
        lambda: zipped({**good_files(), MANIFEST: manifest(entrypoint="other.mjs")}),
        "no module other.mjs",
    ),
    "entrypoint is no JavaScript": (
        lambda: zipped({**good_files(), MANIFEST: manifest(entrypoint="x.json"), "x.json": "1"}),
        "pattern",
    ),
}
"""What is refused, and what the first issue says."""


def _in_parts() -> bytes:
    archive = bytearray(zipped(good_files()))
    struct.pack_into("<H", archive, len(archive) - 22 + 4, 1)
    return bytes(archive)


def _commented() -> bytes:
    """Two programs may each take another of the two directories for the archive's."""
    packed = io.BytesIO(zipped(good_files()))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = zipped(_many(1))
    return packed.getvalue()


def _wrong_gzip() -> bytes:
    archive = bytearray(tarred(good_files()))
    archive[-8] ^= 1
    return bytes(archive)


OF_EVERY_KIND: dict[str, str | bytes] = {
    MANIFEST: manifest(capabilities={"streaming": False, "tools": True}),
    "main.mjs": """
import { answer } from "./lib/answer.mjs";
export default { invoke: ({ input }) => answer(input.messages.at(-1).content) };
""",
    "lib/answer.mjs": """
import settings from "../data/settings.json";
import greeting from "../greeting.txt";
import module from "./add.wasm";
import { shout } from "./words.js";
const { exports } = await WebAssembly.instantiate(module);
export function answer(text) {
  const own = Object.hasOwn(settings, "__proto__") && module instanceof WebAssembly.Module;
  return shout(`${greeting.trim()}, ${text}: ${exports.add(settings.a, settings.b)} ${own}`);
}
""",
    "lib/words.js": "export const shout = (text) => text.toUpperCase();\n",
    "data/settings.json": '{"a": 40, "b": 2, "__proto__": "\\u2028 \u2028 \u00e9"}',
    "greeting.txt": "H\u00e9llo\n",
    "lib/add.wasm": WASM,
}
"""Three modules of JavaScript, one each of JSON, text and WebAssembly, which import each other."""

OF_EVERY_KIND_ANSWERS = "H\u00c9LLO, YOU: 42 TRUE"
"""What it answers to `you`."""
