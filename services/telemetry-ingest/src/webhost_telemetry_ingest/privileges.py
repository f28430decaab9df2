"""What the role of this service may do with its tables; everything else is refused."""

from webhost_kit.database.privileges import ALL, PROJECTS

TABLES = {
    **PROJECTS,
    "accounts": ALL,
    "deployments": ALL,
}
