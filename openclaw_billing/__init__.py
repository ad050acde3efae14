"""Client authentication and billing for a FastAPI gateway.

The house is built in layers. A module imports from its own layer or from one above it in this list,
never from one below; `tests/test_map.py` reads this list and checks every import.

    words       errors frozen records settings values stripe_facts stripe_records
    rules       plans keys cycles lots text signatures gcra addresses paid_limit prices pauses stripe_events
    contracts   contracts clock
    operations  ledger books turning paid grants fitting subscriptions copies disputes purchases checkouts
    operations  alerts inbox outbox accounts keyring jobs usage audit replies seed_file adoption
    adapters    stores limits payments
    assembly    gate runtime effects reconcile paying changing worker
    edges       web metrics logs cli __main__
    leaf        testing

Three walks to begin with. Authenticate: `client_auth` → `keyring` → `keys` and the store. Submit a job:
`intake_routes` → `jobs` → `ledger` → the store. A change of credits: `grants` → `books.post` → the store.
"""
