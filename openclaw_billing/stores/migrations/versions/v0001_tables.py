"""The first tables."""

from openclaw_billing.stores.postgres_schema import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file("0001_tables.sql")
