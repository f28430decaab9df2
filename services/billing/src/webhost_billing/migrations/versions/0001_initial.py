"""The first schema: what `tables` declares, and generation 1 live.

Until the first release this follows the declaration. From then on it is frozen, and each change of
`tables` comes with a migration of its own; a test holds the two together.
"""

from alembic import op
from webhost_billing.tables import generations, metadata
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(EVENT_TABLES_SQL)
    # The kit's tables are there by now, with their triggers; the rest is made from the declaration.
    metadata.create_all(op.get_bind())
    op.execute(generations.insert().values(scope="all", live=1, newest=1))
