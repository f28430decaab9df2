"""Where a stand-in of the local stack may listen: on loopback, or inside of a container.

A stand-in lets anybody be anybody, so it is for this machine alone. In a container it has to listen
on the container's own address; its port is then published on the machine's loopback, and
CONTAINER_NAMES has the names by which other containers call it.
"""

import ipaddress
import os

LOOPBACK_HOSTS = ("127.0.0.1", "localhost")


def container_names() -> tuple[str, ...]:
    """The names by which other containers call this one; none outside of a container."""
    names = os.environ.get("CONTAINER_NAMES", "").split(",")
    return tuple(name.strip() for name in names if name.strip())


def may_listen(host: str) -> bool:
    """Whether a stand-in may listen on this address."""
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
    return loopback or bool(container_names())
