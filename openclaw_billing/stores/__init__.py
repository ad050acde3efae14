"""Stores: memory, JSON files, PostgreSQL. Each passes the suite in `tests/stores/`."""
