"""Two releases side by side: this one, and a next one in which a type of event has a new version.

Each service is of this release until it is upgraded: an installation of its own has the contracts
of both, and gives each process those of the release that its service is of when it starts.
"""

import site
import sys
import venv
from pathlib import Path

import webhost_contracts
from webhost_kit.database.revisions import package_of

_NEXT = """
import sys
from pathlib import Path

_UPGRADED = Path({upgraded!r}).read_text().split()
_PROGRAM = Path(sys.argv[0]).parent.name
_VERSION = "v2" if _PROGRAM in _UPGRADED else "v1"
"""


class Releases:
    """`python` runs the services, all of this release at first.

    In the next release `module` of the contracts states `type_name` as `.v2` instead of `.v1`.
    """

    def __init__(self, directory: Path, module: str, type_name: str) -> None:
        self._upgraded = directory / "upgraded"
        self._upgraded.touch()
        contracts = Path(webhost_contracts.__file__).parent
        newer = directory / "newer" / contracts.name
        newer.parent.mkdir()
        # By links, but for what differs.
        for file in (it for it in contracts.rglob("*") if it.is_file() and it.suffix != ".pyc"):
            link = newer / file.relative_to(contracts)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        changed = newer / module
        text = changed.read_text("utf-8")
        assert f'tag="{type_name}.v1"' in text
        changed.unlink()
        changed.write_text(
            _after_docstring(text, _NEXT.format(upgraded=str(self._upgraded))).replace(
                f'tag="{type_name}.v1"', f'tag="{type_name}." + _VERSION'
            )
        )
        self.python = _installation(directory / "installation", newer.parent)

    def upgrade(self, service: str) -> None:
        """Let what is started of this service from now on be of the next release."""
        with self._upgraded.open("a") as names:
            names.write(f"{package_of(service)}\n")


def _after_docstring(text: str, code: str) -> str:
    opening, docstring, rest = text.split('"""', 2)
    return f'{opening}"""{docstring}"""\n{code}{rest}'


def _installation(directory: Path, first: Path) -> str:
    """An installation of all that this one has, in which one folder's packages come first."""
    venv.create(directory, symlinks=True)
    [packages] = directory.glob("lib/python*/site-packages")
    ours = site.getsitepackages()
    added = "".join(f"import site; site.addsitedir({path!r})\n" for path in ours)
    (packages / "releases.pth").write_text(f"{first}\n{added}")
    for program in ("nats-server",):
        (directory / "bin" / program).symlink_to(Path(sys.executable).with_name(program))
    return str(directory / "bin/python")
