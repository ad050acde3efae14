"""Migrations of the PostgreSQL store: what each one does stands in the `.sql` file of its number."""
