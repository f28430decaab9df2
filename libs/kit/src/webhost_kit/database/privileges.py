"""What a service's own role may do with its tables, as `privileges.TABLES` of its package says.

What is not listed there is refused: a table, and of a table a verb. The migrations grant it, and
the local stack compares it at each start, so neither SQLAlchemy nor Alembic is loaded.
"""

from collections.abc import Mapping
from importlib import import_module

Verbs = frozenset[str]

READ: Verbs = frozenset({"SELECT"})
APPEND: Verbs = READ | {"INSERT"}
"""Rows that stay as they were written."""
KEEP: Verbs = APPEND | {"UPDATE"}
"""Rows that change, or are locked, and are never removed."""
QUEUE: Verbs = APPEND | {"DELETE"}
"""Rows that come and go, and never change."""
ALL: Verbs = KEEP | QUEUE

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
"""All that Postgres can grant of a table."""

PROJECTS: Mapping[str, Verbs] = {
    "alembic_version": READ,
    "checkpoints": KEEP,
    "parked_events": QUEUE,
}
"""The tables of a service that folds streams."""
STATES_FACTS: Mapping[str, Verbs] = {
    **PROJECTS,
    "events": APPEND,
    "outbox": QUEUE,
    "held_facts": QUEUE,
}
"""The tables of a service that states facts as well."""


def by_user_of(package: str) -> frozenset[str]:
    """Return the tables of this package where policies keep users' rows apart."""
    return frozenset(getattr(import_module(f"{package}.privileges"), "BY_USER", ()))


def privileges_of(package: str) -> Mapping[str, Verbs]:
    """Return by table what the role of the service with this package may do."""
    return import_module(f"{package}.privileges").TABLES
