"""Comparisons of two answers, numbered in one order with the outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """Add the table of comparisons; all rows stay as they are."""
    op.create_table(
        "comparisons",
        # Drawn from the numbers of outcome_events, as both are in one order.
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column(
            "decision_id", sa.String(64), sa.ForeignKey("decisions.id"), nullable=False
        ),
        sa.Column("other_id", sa.String(64), sa.ForeignKey("decisions.id")),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("key", "revision"),
    )
