"""What in the manifests is generated from code, so that both are one source."""

from collections.abc import Iterator
from pathlib import Path

from webhost_local import nats_accounts, provision

from deploy.rendering import K8S

GENERATED = {
    K8S / "base/nats/accounts.conf": nats_accounts.configuration,
    K8S / "components/postgres/roles.sql": provision.script,
    K8S / "components/gateway-postgres/roles.sql": lambda: provision.script(["gateway"]),
}
"""Each file, and what returns its text."""


def problems() -> Iterator[str]:
    """Yield the files that are not as code would write them."""
    for file, text in GENERATED.items():
        if _read(file) != text():
            yield f"{file.relative_to(K8S)}: is not what code says; run `make docs`"


def write() -> None:
    """Write them all."""
    for file, text in GENERATED.items():
        file.write_text(text())


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
