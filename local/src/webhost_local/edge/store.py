"""Scripts and routes on disk.

Guarantees: a script or the routes change by one rename, after the new files have reached the disk;
a process killed midway leaves the old state. Manifests hold secrets and are readable by their
owner only. A version that was uploaded and never deployed goes with the next deployment.

    <data>/scripts/<key>/manifest.json    the Script
    <data>/scripts/<key>/<version>/<n>    one file per module, and version.json
    <data>/objects/<script id>/            Durable Objects of the script
    <data>/routes.json                     the routes of the zone
    <data>/namespaces.json                 the dispatch namespaces
    <data>/run/                            sockets and configurations of this run
    <data>/run/parameters/<key>            what the outbound Worker is told of a script
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from webhost_local.edge.model import DispatchNamespace, Route, Script
from webhost_local.edge.owner import Owner

VERSION_FILE = "version.json"

T = TypeVar("T")


class Store:
    """The edge's persistent state. Methods that write are blocking and short."""

    def __init__(self, data_dir: Path, owner: Owner) -> None:
        self.data_dir = data_dir
        self.owner = owner
        self.run_dir = data_dir / "run"
        self.parameters_dir = self.run_dir / "parameters"
        self._scripts_dir = data_dir / "scripts"
        self._routes_file = data_dir / "routes.json"
        self._spaces_file = data_dir / "namespaces.json"
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for directory in (self.run_dir, self._scripts_dir, data_dir / "objects"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner.open_way(directory)
        owner.open_way(data_dir)
        self.parameters_dir.mkdir(mode=0o700)
        owner.give(self.parameters_dir)
        self.scripts: dict[str, Script] = {}
        for directory in self._scripts_dir.iterdir():
            self._open_script(directory)
        known = {script.id for script in self.scripts.values()}
        for directory in (data_dir / "objects").iterdir():
            if directory.name not in known:  # its script's deletion was cut short
                shutil.rmtree(directory)
        self.routes = {route.id: route for route in _stored(self._routes_file, Route)}
        spaces = _stored(self._spaces_file, DispatchNamespace)
        self.dispatch_namespaces = {space.name: space for space in spaces}

    def _open_script(self, directory: Path) -> None:
        manifest = directory / "manifest.json"
        if not manifest.exists():
            shutil.rmtree(directory)
            return
        script = msgspec.json.decode(manifest.read_bytes(), type=Script)
        self.scripts[script.key] = script
        self.owner.open_way(directory)
        self.owner.give(self.version_dir(script))
        self.owner.give(self.objects_dir(script))

    def version_dir(self, script: Script) -> Path:
        return self._scripts_dir / script.key / script.version.id

    def objects_dir(self, script: Script) -> Path:
        """Where the script's Durable Objects live: the same for all its versions."""
        return self.data_dir / "objects" / script.id

    def write_version(self, script: Script, files: Mapping[str, bytes]) -> None:
        """Put the modules of a version on disk; nothing points at them yet."""
        directory = self.version_dir(script)
        directory.mkdir(mode=0o700, parents=True)
        self.owner.open_way(directory.parent)
        for name, content in files.items():
            _write(directory / name, content)
        _write(directory / VERSION_FILE, msgspec.json.encode(script))
        _sync_directory(directory)
        self.owner.give(directory)

    def uploaded_version(self, key: str, version_id: str) -> Script | None:
        """The script as an upload wanted it, while that version waits to be deployed."""
        for directory in (self._scripts_dir / key).iterdir():
            if directory.name == version_id:
                stored = (directory / VERSION_FILE).read_bytes()
                return msgspec.json.decode(stored, type=Script)
        return None

    def save(self, script: Script) -> None:
        """Make this the script of its name."""
        objects = self.objects_dir(script)
        if not objects.exists():
            objects.mkdir(mode=0o700)
            self.owner.give(objects)
        _replace(self._scripts_dir / script.key / "manifest.json", msgspec.json.encode(script))
        self.scripts[script.key] = script

    def forget_versions(self, script: Script) -> None:
        """Remove every version of this script but the current one."""
        for entry in (self._scripts_dir / script.key).iterdir():
            if entry.is_dir() and entry.name != script.version.id:
                shutil.rmtree(entry)
        objects = self.objects_dir(script)
        keys = {namespace.key for namespace in script.namespaces.values()}
        for entry in objects.iterdir() if objects.exists() else ():
            if entry.name not in keys:
                shutil.rmtree(entry)

    def discard(self, script: Script, *, known: bool) -> None:
        """Remove an uploaded version that was refused; unless `known`, the whole script."""
        directory = self.version_dir(script)
        shutil.rmtree(directory if known else directory.parent, ignore_errors=True)

    def delete(self, script: Script) -> None:
        """Remove the script and its Durable Objects."""
        del self.scripts[script.key]
        directory = self._scripts_dir / script.key
        (directory / "manifest.json").unlink()
        _sync_directory(directory)
        shutil.rmtree(directory)
        shutil.rmtree(self.objects_dir(script), ignore_errors=True)

    def save_routes(self, routes: Mapping[str, Route]) -> None:
        _replace(self._routes_file, msgspec.json.encode(list(routes.values())))
        self.routes = dict(routes)

    def save_dispatch_namespaces(self, spaces: Mapping[str, DispatchNamespace]) -> None:
        _replace(self._spaces_file, msgspec.json.encode(list(spaces.values())))
        self.dispatch_namespaces = dict(spaces)


def _stored(path: Path, kind: type[T]) -> list[T]:
    return msgspec.json.decode(path.read_bytes(), type=list[kind]) if path.exists() else []


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    _write(temporary, content)
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
