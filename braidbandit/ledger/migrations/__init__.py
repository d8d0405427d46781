"""Alembic migrations of the ledger, applied when one is opened."""
