"""The directory that holds everything of one local stack.

format         which versions of this program can use it
keys/          for each service that holds any, its platform keys (0600)
lock           held by the `webhost up` that runs here
secrets.json   identities and keys, made at the first start (0600)
issuer.json    the development issuer's address and signing key (0600)
ports.json     which port each process had last
stack.json     what runs now, for `webhost status` (0600)
nats/ postgres/ edge/ lemonsqueezy/, and nats-2/ nats-3/ of a cluster
"""

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from webhost_local.ports import free_port, is_free, reserve

DEFAULT = Path(".webhost")
FORMAT = "3"
"""Raised where tables, streams or files change and there is nothing that would migrate them."""


CLUSTER = 3
"""NATS servers of a cluster: the fewest of which one may be away."""


class StackError(Exception):
    """An error about a local stack, for its user; the message is one line."""


@dataclass(frozen=True)
class DataDir:
    """Paths below a data directory. It need not exist yet."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "DataDir":
        return cls(path.resolve())

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def issuer(self) -> Path:
        return self.root / "issuer.json"

    @property
    def state(self) -> Path:
        return self.root / "stack.json"

    def nats(self, server: str) -> Path:
        """What one of the NATS servers keeps."""
        return self.root / server

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def edge(self) -> Path:
        return self.root / "edge"

    def make(self) -> None:
        """Make the directory, if it is not there. Raises StackError where that cannot be."""
        # Under root, Postgres runs as another user, who must be able to traverse the directory.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.root.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"{self.root} cannot be made: {error.strerror}") from error

    def require_format(self) -> None:
        """Raise StackError where another version of this program made the directory."""
        file = self.root / "format"
        if not self.secrets.exists():
            file.write_text(FORMAT)
        elif not file.exists() or file.read_text() != FORMAT:
            raise StackError(
                f"{self.root} was made by another version of this program, and cannot be used by"
                " this one: remove it to begin anew, or choose another one with --data-dir"
            )

    def nats_nodes(self, asked: int | None) -> int:
        """How many NATS servers the stack has: as many as before, or as are asked for at first.

        Raises StackError where other ones are asked for: nothing moves the streams.
        """
        if self.nats("nats-2").exists() or self.nats("nats-3").exists():
            kept = CLUSTER
        elif self.nats("nats").exists():
            kept = 1
        else:
            return asked or 1
        if asked not in (None, kept):
            raise StackError(
                f"the streams in {self.root} are kept by {_nodes(kept)}, and cannot be moved to"
                f" {_nodes(asked)}: start it with --nats-nodes {kept}, or choose another"
                " directory with --data-dir"
            )
        return kept

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the directory for one stack. Raises StackError when another one runs here."""
        self.make()
        # Open files are not inherited, so the lock ends with this process and no later.
        with (self.root / "lock").open("w") as file:
            deadline = time.monotonic() + 1  # a `status` holds it for a moment
            while not _try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise StackError(f"a stack is already running in {self.root}")
                time.sleep(0.05)
            yield

    def is_locked(self) -> bool:
        """Whether a stack runs here."""
        try:
            with (self.root / "lock").open() as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @contextmanager
    def rotating(self) -> Generator[None]:
        """Let one command at a time change the platform's keys. Raises StackError for another."""
        with (self.root / "rotation.lock").open("w") as file:
            if not _try_lock(file, fcntl.LOCK_EX):
                raise StackError("another command is rotating a key of this stack")
            yield

    def choose_ports(self, names: list[str], taken: tuple[int, ...]) -> dict[str, int]:
        """Give each name the port it had last time if that is still free, else a new one.

        `taken` are ports that others of the stack are about to use.
        """
        file = self.root / "ports.json"
        before: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        chosen: dict[str, int] = {}
        for name in names:
            port = before.get(name, 0)
            if not (port and is_free(port) and reserve(port)):
                port = free_port()
            while port in (*taken, *chosen.values()):
                port = free_port()
            chosen[name] = port
        write_whole(file, json.dumps(before | chosen, indent=2))
        return chosen


def write_whole(path: Path, text: str) -> None:
    """Replace a file atomically, readable by its owner only: readers see the old or the new."""
    _write_beside(path, text).replace(path)


def write_once(path: Path, text: str) -> str:
    """Make a file, readable by its owner only, unless it exists; return what it then holds."""
    unfinished = _write_beside(path, text)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(unfinished)
    unfinished.unlink()
    return path.read_text()


def _nodes(count: int) -> str:
    return "one NATS server" if count == 1 else f"{count} NATS servers"


def _write_beside(path: Path, text: str) -> Path:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(
        unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR
    )
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return unfinished


def _try_lock(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
