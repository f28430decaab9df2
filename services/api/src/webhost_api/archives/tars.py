"""Reads a tar.gz archive. Pure."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO

from webhost_kit.errors import InvalidRequest

from webhost_api.archives.entries import (
    LINK,
    MAX_ENTRIES,
    MAX_UNPACKED_BYTES,
    NO_FILE,
    Entry,
    File,
    Issues,
    check,
    relative,
    too_many,
)
from webhost_api.archives.inflation import Budget, Inflation

SIGNATURE = b"\x1f\x8b"

_MAX_TAR_BYTES = MAX_UNPACKED_BYTES + MAX_ENTRIES * 4 * tarfile.BLOCKSIZE
"""With headers, long names and what fills the last block of each entry."""
_MAX_EXTENDED_BYTES = 1024
"""Of one extended header: names, times, and what a file system adds."""
_MAX_ALL_EXTENDED_BYTES = 256 * _MAX_EXTENDED_BYTES
_MAX_GLOBAL_BYTES = _MAX_EXTENDED_BYTES
"""Of all global headers; git writes one, of 52 bytes."""
_KIND_AT = 156
_EXTENSIONS = b"".join(
    (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_SPARSE)
)
_TAR_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)


def untar(body: bytes) -> list[File]:
    unpacked = _gunzip(body)
    _check_headers(unpacked)
    with tarfile.open(fileobj=BytesIO(unpacked), mode="r:", errorlevel=2) as archive:
        entries = list(_entries(archive))
        # A header that cannot be read ends the archive for tarfile, as its end does.
        end = len(unpacked) - archive.offset
        if end < 2 * tarfile.BLOCKSIZE or unpacked.count(0, archive.offset) < end:
            raise EOFError("no end of archive")
    check([_tar_entry(info) for info in entries])
    budget = Budget()
    files: list[File] = []
    for info in entries:
        if not info.isdir():
            budget.take(info.size)
            content = unpacked[info.offset_data : info.offset_data + info.size]
            files.append(File(relative(info.name), content))
    return files


def _gunzip(body: bytes) -> bytes:
    stream = Inflation(16 + zlib.MAX_WBITS, Budget(_MAX_TAR_BYTES).take)
    unpacked = stream.inflated(memoryview(body))
    if not stream.is_ended:
        raise InvalidRequest.at([], "The gzip archive is not complete; send it again.")
    if not stream.is_whole:
        raise InvalidRequest.at(
            [], "There is something behind the gzip archive; send one archive alone."
        )
    return unpacked


def _check_headers(unpacked: bytes) -> None:
    """Refuse what would take the standard library time or memory out of all proportion.

    They grow with the square of an extended header's size; all global ones are copied into each
    entry behind them; a sparse file's map may be as long as the archive.
    """
    size = size_of_global = 0
    for info, body in _extensions(unpacked):
        if info.type == tarfile.GNUTYPE_SPARSE or b"GNU.sparse." in body:
            issues = Issues()
            issues.add(info.name, NO_FILE)
            issues.refuse()
        size += info.size
        if info.type == tarfile.XGLTYPE:
            size_of_global += info.size
        if (
            not 0 <= info.size <= _MAX_EXTENDED_BYTES
            or size > _MAX_ALL_EXTENDED_BYTES
            or size_of_global > _MAX_GLOBAL_BYTES
        ):
            raise InvalidRequest.at(
                [], "Its extended headers are too large; pack it with `tar --format=ustar`."
            )


def _extensions(unpacked: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield each header that extends others, with the beginning of what it holds.

    Any block may be one: where the library looks for the next header depends on what it has read.
    """
    for number, kind in enumerate(unpacked[_KIND_AT :: tarfile.BLOCKSIZE]):
        if kind not in _EXTENSIONS:
            continue
        start = number * tarfile.BLOCKSIZE
        end = start + tarfile.BLOCKSIZE
        with suppress(tarfile.HeaderError):
            info = tarfile.TarInfo.frombuf(unpacked[start:end], "ascii", "surrogateescape")
            yield info, unpacked[end : end + _MAX_EXTENDED_BYTES]


def _entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    count, before = 0, -1
    while (info := archive.next()) is not None:
        count += 1
        if count > MAX_ENTRIES:
            raise too_many()
        # A size below zero would lead back to where it was before.
        if info.size < 0 or archive.offset <= before:
            raise ValueError("the archive leads backwards")
        before = archive.offset
        yield info


def _tar_entry(info: tarfile.TarInfo) -> Entry:
    reason = ""
    if info.issym() or info.islnk():
        reason = LINK
    elif info.type not in _TAR_TYPES or info.issparse() or (info.isdir() and info.size):
        reason = NO_FILE
    return Entry(info.name, info.isdir(), reason)
