"""Decisions, and one outcome for each: the ledger of 0.1.0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Create the tables of 0.1.0, as it made them."""
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("task_hash", sa.String(64), nullable=False),
        sa.Column("arm_id", sa.String(64), nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "outcomes",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "decision_id",
            sa.String(64),
            sa.ForeignKey("decisions.id"),
            nullable=False,
            unique=True,
        ),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("reward", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
