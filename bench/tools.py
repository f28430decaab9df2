"""The programs that a benchmark needs beside the project's own: nginx and wrk."""

import os
import shutil
import subprocess

from bench.harness import NotMeasured
from bench.report import progress

PACKAGES = {"nginx": "nginx-light", "wrk": "wrk"}


def require(program: str) -> str:
    """Return the program's path, installing Debian's package where that is possible.

    Raises NotMeasured, which says what to install.
    """
    package = PACKAGES[program]
    if (found := _find(program)) is not None:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        progress(f"installing the package {package} as root, with apt-get")
        # At run level 1 Debian starts no server of the packages that it installs.
        quietly = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "--yes", package]):
            subprocess.run(
                ["apt-get", "--quiet", *arguments], env=quietly, stdout=subprocess.DEVNULL
            )
        if (found := _find(program)) is not None:
            return found
    raise NotMeasured(f"{program} is not installed: apt-get install {package}")


def _find(program: str) -> str | None:
    # Debian keeps servers out of the path of ordinary users.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
