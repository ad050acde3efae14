"""`python -m openclaw_billing`: the command line."""

from openclaw_billing.cli import main

if __name__ == "__main__":
    main()
