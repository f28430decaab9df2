"""Users' rows are kept apart by policies too, whatever a query asks for.

A transaction names whose rows it is about, see `webhost_kit.database.row_security`. A program that
names nobody, as those of before, fails instead of finding nothing.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

USERS_TABLES = (
    *("users", "accounts", "agents", "deployments", "api_keys", "uploads"),
    *("idempotency", "idempotency_claims", "history", "events"),
)
_NAMED = "current_setting('webhost.user_id')"
_ALL = f"{_NAMED} = '*'"
# The rows of an agent, which has the user.
_OF_VISIBLE_AGENT = "EXISTS (SELECT FROM agents a WHERE a.agent_id = agent_events.agent_id)"


def _policy(own: str) -> str:
    """Return the condition: of a test for NULL the planner expects that nearly all rows pass it.

    That is right, since a query asks for its user's rows itself. With the plain condition it would
    expect a hundredth of them, and plan as for a small table.
    """
    return f"({_ALL} OR {own} OR NULL) IS NOT NULL"


def upgrade() -> None:
    """Force a policy on each table with users' rows, its owner included."""
    owns = dict.fromkeys(USERS_TABLES, f"user_id = {_NAMED}") | {"agent_events": _OF_VISIBLE_AGENT}
    for table, own in owns.items():
        condition = _policy(own)
        op.execute(f"CREATE POLICY users ON {table} USING ({condition}) WITH CHECK ({condition})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
