"""`python -m webhost_local.migrating` brings every service's schema of the stack up to date.

On standard input: a JSON list of [DSN of the schema's owner, service]. A process of its own, since
what migrations load would stay in the supervisor's memory.
"""

import sys

import msgspec
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.revisions import package_of

from webhost_local.installation.postgres_roles import role


def main() -> None:
    """Upgrade all of them, in order."""
    for dsn, service in msgspec.json.decode(sys.stdin.buffer.read(), type=list[tuple[str, str]]):
        upgrade(dsn, package_of(service), role(service))


if __name__ == "__main__":
    main()
