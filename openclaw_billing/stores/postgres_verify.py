"""Verifying a PostgreSQL store: every balance is the sum of its ledger, in one snapshot, while gateways work on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openclaw_billing.errors import StartupError
from openclaw_billing.stores.backups import Verified
from openclaw_billing.stores.postgres_end import PostgresEnd
from openclaw_billing.stores.postgres_line import driver, first_line
from openclaw_billing.stores.postgres_sql import sql
from openclaw_billing.stores.schema import FILLING


def verify(url: str) -> Verified:
    """Whether accounts, lots, ledger and reservations say the same of every client. Nothing is changed.

    Raises:
        StartupError: the database cannot be read, or is not one of ours.
    """
    end = PostgresEnd(url)
    try:
        end.freeze_view()
        # Every row is read: an index would only be a longer way.
        end.connection.execute("SET LOCAL enable_seqscan = on")
        [clients, entries] = end.connection.execute(sql("how many")).fetchone()
        verified = Verified(clients=clients, entries=entries)
        if end.fact(FILLING) is not None:
            verified.problems.append("A move into this database is not finished: run `move` again.")
        found = end.connection.cursor(row_factory=driver().rows.dict_row).execute(sql("unsound"))
        for row in found:
            verified.problems += _sentences(row)
        return verified
    except driver().Error as error:
        raise StartupError(f"The database cannot be read: {first_line(error)}") from error
    finally:
        end.close()


def _sentences(row: dict[str, Any]) -> Iterator[str]:
    who = f"Client {row['client_id']}"
    if not row["has_account"]:
        yield f"{who}: there is no account, and {row['told_entries']} entries of the ledger."
        return
    if (row["available"], row["reserved"]) != (row["told_available"], row["told_reserved"]):
        yield (
            f"{who}: the ledger says {row['told_available']} + {row['told_reserved']} reserved, "
            f"the account {row['available']} + {row['reserved']}"
        )
    if row["pending"] != row["reserved"]:
        yield f"{who}: {row['pending']} credits are in pending reservations, the account has {row['reserved']} reserved"
    if not row["entries"] == row["told_entries"] == row["newest"]:
        yield (
            f"{who}: the account counts {row['entries']} entries, "
            f"the ledger has {row['told_entries']}, the last of them number {row['newest']}"
        )
    if row["wrong"] is not None:
        yield f"{who}: entry {row['wrong']} of the ledger has a balance that is not the sum of those before it"
