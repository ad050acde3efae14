"""The command line: every admin action on the same store, while the gateway runs or not.

Exit codes: 0 fine, 1 refused or findings, 2 wrong usage, 78 the store or the settings cannot be used.
"""

from __future__ import annotations

import sys

import typer

from openclaw_billing.cli import clients, db, jobs, keys, store, stripe
from openclaw_billing.cli.move import move
from openclaw_billing.cli.output import say
from openclaw_billing.errors import BillingError, StartupError

app = typer.Typer(
    name="openclaw_billing",
    help="Client authentication and billing: clients, keys, credits, and the store they are kept in.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(clients.app, name="clients", help="Create, list, change and deactivate clients.")
app.add_typer(keys.app, name="keys", help="Issue, list, rotate and revoke keys.")
app.add_typer(jobs.app, name="jobs", help="List jobs and move them along.")
app.add_typer(
    stripe.app, name="stripe", help="Set up the Stripe account, and look whether it is set up well."
)
app.add_typer(db.app, name="db", help="Bring the database's schema to this program's version.")
clients.add_to(app)
store.add_to(app)
app.command()(move)


def main() -> None:
    try:
        app()
    except BillingError as error:
        say(f"Refused: {error.detail}")
        sys.exit(1)
    except OSError as error:
        say(f"{error.filename or 'A file'}: {error.strerror}")
        sys.exit(1)
    except StartupError as error:
        say(str(error))
        sys.exit(error.exit_code)
