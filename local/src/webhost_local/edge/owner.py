"""Who workerd runs as: nobody, where the edge runs as root and nobody may pass through to its data
directory and to workerd; otherwise the edge's own user.

What workerd reads, writes and connects to is given to that user: the modules of versions, Durable
Objects, the configuration and the sockets of a run. Manifests, which hold every secret, are not.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Owner:
    """User and group ids of workerd, None for the edge's own."""

    ids: tuple[int, int] | None

    @classmethod
    def of(cls, data_dir: Path, workerd: Path) -> "Owner":
        """Choose the user."""
        if os.geteuid() != 0 or not (_is_open(data_dir) and _is_open(workerd)):
            return cls(None)
        try:
            found = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            return cls(None)
        return cls((found.pw_uid, found.pw_gid))

    def give(self, path: Path) -> None:
        """Let workerd have a file, or a directory with all that is in it."""
        if self.ids is None:
            return
        os.chown(path, *self.ids, follow_symlinks=False)
        for directory, directories, files in os.walk(path):
            for name in (*directories, *files):
                os.chown(Path(directory) / name, *self.ids, follow_symlinks=False)

    def open_way(self, directory: Path) -> None:
        """Let workerd pass through a directory, and nothing more."""
        if self.ids is not None:
            directory.chmod(0o711)

    def become(self) -> None:
        """Go on as that user, for good: for a process that has just been forked."""
        if self.ids is not None:
            os.setgroups([])
            os.setgid(self.ids[1])
            os.setuid(self.ids[0])


def _is_open(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
