"""How many processes of each service a local stack has."""

from webhost_local.installation.services import SERVICES

SERVED = ("api", "gateway", "telemetry-ingest")
"""What the public origin leads to."""
MOST = 9

_ORDER = ("gateway", "api", "deployer", "telemetry-ingest", "billing")
assert set(_ORDER) == set(SERVICES)

Replicas = dict[str, list[str]]
"""The names of each service's processes."""


def names_of(kind: str, count: int) -> list[str]:
    """The processes' names: the first has that of its kind, and the others a number behind it."""
    return [kind, *(f"{kind}-{number}" for number in range(2, count + 1))]


def one_of_each() -> Replicas:
    return {kind: names_of(kind, 1) for kind in _ORDER}


def parse(text: str) -> Replicas:
    """Read `gateway=2,billing=2`; of a service that is not named there is one.

    Raises ValueError, with a message that says what is wrong.
    """
    counts: dict[str, int] = {}
    if not text.strip():
        raise ValueError("name services and numbers, as in gateway=2,billing=2")
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, number = (side.strip() for side in part.partition("="))
        if kind not in SERVICES:
            raise ValueError(f"there is no service {kind!r}; the services are {', '.join(_ORDER)}")
        if kind in counts:
            raise ValueError(f"{kind} is there twice")
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= MOST):
            raise ValueError(f"{kind}={number}: of each service there are 1 to {MOST}")
        counts[kind] = int(number)
    return {kind: names_of(kind, counts.get(kind, 1)) for kind in _ORDER}
