"""What an archive may hold: the limits, and the entries' names and kinds. Pure."""

from dataclasses import dataclass

from webhost_kit.errors import InvalidRequest

MIB = 1024 * 1024
MAX_PACKED_BYTES = 10 * MIB
MAX_UNPACKED_BYTES = 30 * MIB
MAX_FILES = 500
MAX_ENTRIES = 2 * MAX_FILES
"""Files and folders."""
MAX_NAME_CHARS = 200
MAX_ISSUES = 20

LINK = "It is a link; put the file itself there."
NO_FILE = "It is neither a file nor a folder; leave it out."

_SHOWN_CHARS = 100
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.@+~$/")


@dataclass(frozen=True)
class File:
    """A file of the archive; the name is relative, with `/` between its parts."""

    name: str
    body: bytes


@dataclass(frozen=True)
class Entry:
    """What an archive says of an entry. `kind` is why it cannot be taken, "" where it can."""

    name: str
    is_folder: bool
    kind: str = ""


class Issues:
    """The issues that were found; `refuse` raises them."""

    def __init__(self) -> None:
        self._found: list[dict[str, object]] = []

    def add(self, name: str, message: str) -> None:
        """Add what is wrong with the entry of this name."""
        self._found.append({"path": [shown(name)], "message": message})
        if len(self._found) == MAX_ISSUES:
            self.refuse()

    def refuse(self) -> None:
        """Raise InvalidRequest where there are any."""
        if self._found:
            raise InvalidRequest(
                "The archive cannot be used as it is.", details={"issues": self._found}
            )


def shown(name: str) -> str:
    """Return a name from an archive as it may be shown: ASCII, and not long."""
    text = name.encode("ascii", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def check(entries: list[Entry]) -> None:
    """Refuse names that are not plain, kinds that are no files, and two of one name."""
    issues = Issues()
    files: set[str] = set()
    for entry in entries:
        name = relative(entry.name)
        if not name and entry.is_folder:
            continue
        path = name.removesuffix("/") if entry.is_folder else name
        if problem := entry.kind or _problem_of(path):
            issues.add(entry.name, problem)
        elif not entry.is_folder:
            # What differs in upper and lower case only is one file on many machines.
            if name.lower() in files:
                issues.add(entry.name, "There are two files of this name; keep one.")
            files.add(name.lower())
    issues.refuse()
    if len(files) > MAX_FILES:
        raise too_many()


def relative(name: str) -> str:
    """Return the name without the `./` that `tar` puts before it."""
    return name.removeprefix("./") if name != "." else ""


def _problem_of(name: str) -> str:
    parts = name.split("/")
    if len(name) > MAX_NAME_CHARS:
        return f"The name is longer than {MAX_NAME_CHARS} characters; shorten it."
    if name.startswith("/") or name[1:2] == ":":
        return "The name is an absolute path; pack the files from inside of their folder."
    if ".." in parts:
        return "The name leads out of the archive; pack the files from inside of their folder."
    if "\\" in name:
        return "The name has a backslash; pack it with a program that writes `/` between folders."
    if not _PLAIN.issuperset(name):
        return "Rename it: a name has only letters from a to z, digits, and any of _ - . @ + ~ $ /"
    if "" in parts or "." in parts:
        return "The name has an empty part; rename it."
    return ""


def too_many() -> InvalidRequest:
    return InvalidRequest.at(
        [], f"The archive has more than {MAX_FILES} files; bundle the modules into fewer."
    )


def too_large() -> InvalidRequest:
    size = f"{MAX_UNPACKED_BYTES // MIB} MiB"
    return InvalidRequest.at(
        [], f"The archive holds more than {size}; leave out what the agent does not need."
    )
