"""Reads a zip archive: its directory by the standard library, its entries here. Pure."""

import stat
import struct
import zipfile
import zlib
from io import BytesIO

from webhost_kit.errors import InvalidRequest

from webhost_api.archives.entries import (
    LINK,
    MAX_ENTRIES,
    MIB,
    NO_FILE,
    Entry,
    File,
    check,
    relative,
    too_many,
)
from webhost_api.archives.inflation import Budget, Inflation

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
"""Of an entry, and of the end of a directory, which may be all there is."""

_MAX_DIRECTORY_BYTES = 1 * MIB
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unzip(body: bytes) -> list[File]:
    _check_directory(body)
    with zipfile.ZipFile(BytesIO(body)) as archive:
        entries = archive.infolist()
    check([_zip_entry(info) for info in entries])
    # From Python 3.12 on a name in an extra field (Info-ZIP's 0x7075) replaces the one checked.
    if any(info.filename != info.orig_filename for info in entries):
        raise zipfile.BadZipFile("an entry has two names")
    budget = Budget()
    files: list[File] = []
    end = 0
    # In the order of their bytes, of which no two entries may share any.
    for info in sorted(entries, key=lambda info: info.header_offset):
        packed, after = _packed(body, info)
        if info.header_offset < end:
            raise EOFError("two entries overlap")
        end = after
        if not info.is_dir():
            files.append(File(relative(info.filename), _inflated(packed, info, budget)))
    return files


def _check_directory(body: bytes) -> None:
    """Refuse what hides behind, before or beside the directory at the end of a zip archive."""
    at = body.rfind(SIGNATURES[1])
    if at < 0 or at + _END_OF_DIRECTORY.size > len(body):
        raise InvalidRequest.at([], "The zip archive is not complete; send it again.")
    end = _END_OF_DIRECTORY.unpack_from(body, at)
    _, disk, first_disk, here, entries, size, offset, comment = end
    if at + _END_OF_DIRECTORY.size + comment != len(body) or offset + size != at:
        raise InvalidRequest.at(
            [], "There is something before or behind the zip archive; send the archive alone."
        )
    if disk or first_disk or here != entries:
        raise InvalidRequest.at([], "The zip archive is in parts, or too large; pack it again.")
    if entries > MAX_ENTRIES or size > _MAX_DIRECTORY_BYTES:
        raise too_many()


def _zip_entry(info: zipfile.ZipInfo) -> Entry:
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    reason = ""
    if info.flag_bits & _ENCRYPTED:
        reason = "It is encrypted; pack it without a password."
    elif kind == stat.S_IFLNK:
        reason = LINK
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (
        kind and (kind == stat.S_IFDIR) != info.is_dir()
    ):
        reason = NO_FILE
    elif info.compress_type not in _METHODS:
        reason = "It is compressed in a way that is not read; pack it with deflate."
    elif info.is_dir() and info.file_size:
        reason = NO_FILE
    # `filename` ends at a NUL, which the archive's own name does not.
    return Entry(info.orig_filename, info.is_dir(), reason)


def _packed(body: bytes, info: zipfile.ZipInfo) -> tuple[memoryview, int]:
    """Return an entry's bytes, and where they end. Its own header must say what the directory does.

    The standard library's reader ends where the directory says that the file does, whatever
    follows.
    """
    said = _LOCAL_HEADER.unpack_from(body, info.header_offset)
    signature, _, flags, method, *_, name_size, extra_size = said
    at = info.header_offset + _LOCAL_HEADER.size
    name = body[at : at + name_size].decode("ascii")
    if (signature, flags, method, name) != (
        *(SIGNATURES[0], info.flag_bits, info.compress_type),
        info.orig_filename,
    ):
        raise zipfile.BadZipFile("an entry differs from the directory")
    start = at + name_size + extra_size
    end = start + info.compress_size
    if end > len(body):
        raise EOFError("an entry ends behind the archive")
    return memoryview(body)[start:end], end


def _inflated(packed: memoryview, info: zipfile.ZipInfo, budget: Budget) -> bytes:
    if info.compress_type == zipfile.ZIP_STORED:
        budget.take(len(packed))
        content = bytes(packed)
    else:
        stream = Inflation(-zlib.MAX_WBITS, budget.take)
        content = stream.inflated(packed)
        if not stream.is_whole:
            raise EOFError("an entry is not one stream")
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("an entry is not what the directory says")
    return content
