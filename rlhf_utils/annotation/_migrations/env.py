"""Alembic runs this for every command; the connection comes from ``database.migrate``."""

from __future__ import annotations

from alembic import context

from rlhf_utils.annotation.tables import metadata

connection = context.config.attributes["connection"]
# SQLite alters a table by copying it, which Alembic calls a batch.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
