"""Which revision of its schema a service's program wants. Loads neither SQLAlchemy nor Alembic."""

from importlib import resources

VERSION_TABLE = "alembic_version"
"""Alembic's; its comment says which service's revisions it counts."""


def package_of(service: str) -> str:
    """Return the package of a service, which holds its migrations."""
    return f"webhost_{service.replace('-', '_')}"


def newest_revision(package: str) -> str:
    """Return the newest revision of a package's migrations: its files' names begin with theirs."""
    files = resources.files(package).joinpath("migrations", "versions").iterdir()
    return max(file.name.partition("_")[0] for file in files if file.name.endswith(".py"))
