"""Whom a rate limit counts where nobody is known yet: the client's address.

It is the peer's of the connection, or where that is one of TRUSTED_PROXIES the one that the proxy
states in `X-Forwarded-For`, which uvicorn has put in its place.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any

IPV6_PREFIX = 64
UNKNOWN = "unknown"


def address_of(scope: Mapping[str, Any]) -> str:
    """Return the client's address as a key; UNKNOWN for whatever is not one."""
    client = scope.get("client")
    return _key_of(client[0]) if client else UNKNOWN


@lru_cache(maxsize=10_000)
def _key_of(host: str) -> str:
    """Return an IPv6 address's network: whoever has one address has all of it."""
    try:
        address = ip_address(host)
    except ValueError:
        return UNKNOWN
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
    return f"{IPv6Address(network)}/{IPV6_PREFIX}"
