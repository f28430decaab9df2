"""`python -m webhost_local.issuer`: ISSUER_DATA_DIR, ISSUER_LISTEN?, ISSUER_REDIRECT_URIS?,
CORS_ALLOWED_ORIGINS? (comma-separated).

In a container, whose port is published on loopback: CONTAINER_NAMES, by which other containers call
it, and ISSUER_URL, under which browsers reach it.
"""

import os
import sys
from pathlib import Path

import uvicorn

from webhost_local.data_dir import DataDir
from webhost_local.issuer.app import build
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.listening import container_names, may_listen
from webhost_local.ports import LOOPBACK


def main() -> None:
    if "ISSUER_DATA_DIR" not in os.environ:
        sys.exit("issuer: missing ISSUER_DATA_DIR")
    data_dir = DataDir.at(Path(os.environ["ISSUER_DATA_DIR"]))
    identity = IssuerIdentity.load_or_make(data_dir, os.environ.get("ISSUER_URL"))
    listen = os.environ.get("ISSUER_LISTEN", f"{LOOPBACK}:{identity.port}")
    host, _, port = listen.rpartition(":")
    if not may_listen(host):
        sys.exit(
            f"issuer: refuses to listen on {host}: it signs in anybody as anybody, "
            "so it is for this machine alone"
        )
    app = build(
        identity,
        redirect_uris=frozenset(_list("ISSUER_REDIRECT_URIS")),
        cors_origins=_list("CORS_ALLOWED_ORIGINS"),
        hosts=container_names(),
    )
    uvicorn.run(app, host=host, port=int(port), log_level="warning", server_header=False)


def _list(name: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


if __name__ == "__main__":
    main()
