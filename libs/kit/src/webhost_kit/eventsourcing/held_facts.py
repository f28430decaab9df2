"""Which of its own facts a service has found on a stream, while it republishes the others.

Rows are written and removed in one transaction: nobody else ever sees any. The table is made by
the migrations, since the service's role may make none.
"""

import sqlalchemy as sa


def held_facts_table(metadata: sa.MetaData) -> sa.Table:
    """Add the table to a service's metadata."""
    return sa.Table(
        "held_facts",
        metadata,
        sa.Column("aggregate_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        prefixes=["UNLOGGED"],
    )


held_facts = held_facts_table(sa.MetaData())
