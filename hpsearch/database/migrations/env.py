"""Run by alembic, and imported by nobody else."""

from alembic import context

from hpsearch.storage.schema import SCHEMA

context.configure(
    connection=context.config.attributes["connection"],  # in the caller's transaction
    version_table=SCHEMA.name,
    transaction_per_migration=False,
)
context.run_migrations()
