"""Outcomes with revisions and retractions; arms once per set; snapshots; expiry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add what 0.1.0 had not; its rows stay as they are."""
    op.create_table(
        "arm_sets",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("arm_ids", sa.Text, nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("arrays", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    for column in (
        sa.Column("arms", sa.String(64)),
        sa.Column("scores", sa.LargeBinary),
        sa.Column("eligible", sa.LargeBinary),
        sa.Column("expired_at", sa.String(40)),
    ):
        op.add_column("decisions", column)
    op.rename_table("outcomes", "first_outcomes")
    # Numbers are never used twice, whatever is purged: a position stays a position.
    op.create_table(
        "outcome_events",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "decision_id", sa.String(64), sa.ForeignKey("decisions.id"), nullable=False
        ),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("reward", sa.Float),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("decision_id", "revision"),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO outcome_events "
        "(sequence, decision_id, revision, kind, created_at, reward, body) "
        "SELECT sequence, decision_id, 0, 'outcome', created_at, reward, body "
        "FROM first_outcomes ORDER BY sequence"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "SELECT setval(pg_get_serial_sequence('outcome_events', 'sequence'), "
            "(SELECT COALESCE(MAX(sequence), 0) + 1 FROM outcome_events), false)"
        )
    op.drop_table("first_outcomes")
    op.drop_table("meta")
