"""One module a migration, as alembic wants them."""
