"""Reads an archive, zip or tar.gz, that anybody may have made. Pure: bytes in, files out.

Guarantees: nothing is written anywhere; what is read is bounded whatever the archive says of itself
(MAX_FILES, MAX_ENTRIES, MAX_UNPACKED_BYTES, counted while it is unpacked); an archive is one, with
nothing before, behind or twice in it. What does not pass is refused, with an issue for each entry
that is wrong (at most MAX_ISSUES), and each issue says what to do.
"""

import struct
import tarfile
import zipfile
import zlib

from webhost_kit.errors import InvalidRequest

from webhost_api.archives import tars, zips
from webhost_api.archives.entries import File

_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, ValueError),
    *(NotImplementedError, RuntimeError, OverflowError, LookupError, MemoryError),
)
"""What the standard library raises for an archive that is broken; RuntimeError is, among others,
one that is nested too deep, MemoryError one whose sizes cannot be."""


def read(body: bytes) -> list[File]:
    """Return the files of an archive. Raises InvalidRequest."""
    if body.startswith(zips.SIGNATURES):
        unpack, kind = zips.unzip, "zip"
    elif body.startswith(tars.SIGNATURE):
        unpack, kind = tars.untar, "tar.gz"
    else:
        raise InvalidRequest.at(
            [], "This is no zip and no tar.gz archive; send the archive's bytes as they are."
        )
    try:
        return unpack(body)
    except _UNREADABLE as error:
        raise InvalidRequest.at(
            [], f"The {kind} archive is damaged, or has features that are not read; pack it again."
        ) from error
