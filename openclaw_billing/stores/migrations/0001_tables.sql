-- A column for each field of each record, one more, by_…, for each value that it is found by, worked out by
-- the store. Keys compare by code point, as they do in the other stores.

CREATE TABLE clients (
    client_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    active boolean NOT NULL,
    metadata jsonb NOT NULL,
    stripe_customer_id text,
    stripe_subscription_id text,
    rate_limit jsonb CHECK (NOT jsonb_path_exists(rate_limit, '$[*] ? (@ < 0)')),
    version bigint NOT NULL CHECK (version >= 1),
    by_email text COLLATE "C" NOT NULL,
    -- Checked when a statement ends, so that two clients may change places in one.
    CONSTRAINT clients_email UNIQUE (by_email) DEFERRABLE INITIALLY IMMEDIATE
);

CREATE INDEX clients_newest ON clients (created_at DESC, client_id DESC);

-- The free space keeps the versions of a busy account on its page, and every index out of a charge, which
-- leaves `by_due` as it is.
CREATE TABLE accounts (
    client_id text COLLATE "C" PRIMARY KEY CONSTRAINT accounts_client REFERENCES clients,
    plan_id text NOT NULL,
    anchor timestamptz NOT NULL,
    cycle_number bigint NOT NULL,
    cycle_start timestamptz NOT NULL,
    cycle_end timestamptz NOT NULL CHECK (cycle_end > cycle_start),
    lots jsonb NOT NULL CHECK (NOT jsonb_path_exists(lots, '$[*][2] ? (@ < 0)')),
    reserved bigint NOT NULL CHECK (reserved >= 0),
    used bigint NOT NULL CHECK (used >= 0),
    owed bigint NOT NULL CHECK (owed >= 0),
    spent_usd_micros bigint NOT NULL CHECK (spent_usd_micros >= 0),
    entries bigint NOT NULL CHECK (entries >= 0),
    due_at timestamptz,
    period jsonb,
    cycle_limit bigint CHECK (cycle_limit >= 0),
    grace_until timestamptz,
    frozen jsonb,
    active boolean NOT NULL,
    withdrawn bigint NOT NULL CHECK (withdrawn >= 0),
    by_due text COLLATE "C"
) WITH (fillfactor = 50);

CREATE INDEX accounts_by_due ON accounts (by_due) WHERE by_due IS NOT NULL;

CREATE TABLE keys (
    digest text COLLATE "C" PRIMARY KEY,
    key_id text NOT NULL,
    client_id text COLLATE "C" NOT NULL CONSTRAINT keys_client REFERENCES clients,
    pepper_id text NOT NULL,
    start text NOT NULL,
    last4 text NOT NULL,
    created_at timestamptz NOT NULL,
    name text NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'disabled', 'revoked')),
    expires_at timestamptz,
    rotated_to text,
    by_client text COLLATE "C",
    by_id text COLLATE "C",
    CONSTRAINT keys_id UNIQUE (by_id) DEFERRABLE INITIALLY IMMEDIATE
);

CREATE INDEX keys_by_client ON keys (by_client);

CREATE TABLE reservations (
    reservation_id text COLLATE "C" PRIMARY KEY,
    client_id text COLLATE "C" NOT NULL,
    job_id text NOT NULL,
    credits bigint NOT NULL CHECK (credits > 0),
    state text NOT NULL CHECK (state IN ('pending', 'captured', 'released', 'expired', 'refunded')),
    created_at timestamptz NOT NULL,
    cycle_number bigint NOT NULL,
    draws jsonb NOT NULL CHECK (NOT jsonb_path_exists(draws, '$[*][1] ? (@ < 0)')),
    expires_at timestamptz,
    by_pending text COLLATE "C",
    CHECK ((state = 'pending') = (by_pending IS NOT NULL))
);

CREATE INDEX reservations_by_pending ON reservations (by_pending) WHERE by_pending IS NOT NULL;

CREATE TABLE spent (
    spent_id text COLLATE "C" PRIMARY KEY,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL,
    answer text NOT NULL,
    keep boolean NOT NULL,
    by_forgettable text COLLATE "C"
);

CREATE INDEX spent_by_forgettable ON spent (by_forgettable, created_at) WHERE by_forgettable IS NOT NULL;

CREATE TABLE jobs (
    job_id text COLLATE "C" PRIMARY KEY,
    client_id text COLLATE "C",
    project_name text NOT NULL,
    description text NOT NULL,
    task_type text NOT NULL,
    priority text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    budget_limit_usd_micros bigint,
    contact_email text,
    cost_usd_micros bigint NOT NULL CHECK (cost_usd_micros >= 0),
    version bigint NOT NULL CHECK (version >= 1),
    step_cost_usd_micros bigint CHECK (step_cost_usd_micros >= 0),
    by_client text COLLATE "C"
);

CREATE INDEX jobs_by_client ON jobs (by_client, created_at DESC, job_id DESC);

CREATE INDEX jobs_newest ON jobs (created_at DESC, job_id DESC);

CREATE TABLE recents (
    client_id text COLLATE "C" PRIMARY KEY,
    adjustments jsonb NOT NULL,
    costs jsonb NOT NULL
);

CREATE TABLE facts (
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE subscriptions (
    client_id text COLLATE "C" PRIMARY KEY CONSTRAINT subscriptions_client REFERENCES clients,
    mode text NOT NULL CHECK (mode IN ('test', 'live')),
    created_at timestamptz NOT NULL,
    customer_id text,
    subscription_id text,
    subscribed_at timestamptz,
    status text,
    pause_kind text NOT NULL,
    plan_id text,
    interval text NOT NULL,
    start timestamptz,
    "end" timestamptz,
    ends_at timestamptz,
    pending_plan_id text,
    pending_at timestamptz,
    schedule_id text,
    delinquent_since timestamptz,
    invoice_url text,
    trial_used boolean NOT NULL,
    disputes jsonb NOT NULL,
    needs_review text NOT NULL,
    provisional boolean NOT NULL,
    fetched_at timestamptz,
    changing_until timestamptz,
    changes bigint NOT NULL CHECK (changes >= 0),
    change_asked text NOT NULL,
    customers bigint NOT NULL CHECK (customers >= 0),
    billing_name text,
    billing_email text,
    features jsonb NOT NULL,
    by_customer text COLLATE "C"
);

CREATE INDEX subscriptions_by_customer ON subscriptions (by_customer);

CREATE TABLE checkouts (
    attempt_id text COLLATE "C" PRIMARY KEY,
    client_id text COLLATE "C" NOT NULL CONSTRAINT checkouts_client REFERENCES clients,
    mode text NOT NULL CHECK (mode IN ('test', 'live')),
    created_at timestamptz NOT NULL,
    price_id text NOT NULL,
    plan_id text,
    interval text NOT NULL,
    pack text,
    quantity bigint NOT NULL CHECK (quantity > 0),
    credits bigint NOT NULL CHECK (credits >= 0),
    success_url text NOT NULL,
    cancel_url text NOT NULL,
    promotion boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('new', 'open', 'closing', 'complete', 'expired', 'failed')),
    session_id text,
    url text,
    expires_at timestamptz,
    by_unfinished text COLLATE "C",
    by_session text COLLATE "C"
);

CREATE INDEX checkouts_by_unfinished ON checkouts (by_unfinished) WHERE by_unfinished IS NOT NULL;

CREATE INDEX checkouts_by_session ON checkouts (by_session);

CREATE TABLE purchases (
    session_id text COLLATE "C" PRIMARY KEY,
    client_id text COLLATE "C" NOT NULL CONSTRAINT purchases_client REFERENCES clients,
    mode text NOT NULL CHECK (mode IN ('test', 'live')),
    created_at timestamptz NOT NULL,
    credits bigint NOT NULL CHECK (credits > 0),
    amount_paid bigint NOT NULL CHECK (amount_paid >= 0),
    currency text NOT NULL,
    lot_id text NOT NULL,
    payment_intent_id text,
    amount_refunded bigint NOT NULL CHECK (amount_refunded >= 0),
    clawed bigint NOT NULL CHECK (clawed BETWEEN 0 AND credits),
    disputes jsonb NOT NULL,
    version bigint NOT NULL,
    fetched_at timestamptz,
    by_client text COLLATE "C",
    by_payment text COLLATE "C"
);

CREATE INDEX purchases_by_client ON purchases (by_client);

CREATE INDEX purchases_by_payment ON purchases (by_payment);

CREATE TABLE invoices (
    invoice_id text COLLATE "C" PRIMARY KEY,
    client_id text COLLATE "C" NOT NULL CONSTRAINT invoices_client REFERENCES clients,
    mode text NOT NULL CHECK (mode IN ('test', 'live')),
    created_at timestamptz NOT NULL,
    number text,
    status text NOT NULL,
    amount_due bigint NOT NULL,
    amount_paid bigint NOT NULL,
    amount_remaining bigint NOT NULL,
    currency text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    hosted_invoice_url text,
    invoice_pdf text,
    subscription_id text,
    fetched_at timestamptz,
    by_client text COLLATE "C"
);

CREATE INDEX invoices_by_client ON invoices (by_client);

CREATE TABLE stripe_events (
    event_id text COLLATE "C" PRIMARY KEY,
    type text NOT NULL,
    mode text NOT NULL,
    created_at timestamptz NOT NULL,
    happened_at timestamptz NOT NULL,
    source text NOT NULL,
    status text NOT NULL,
    api_version text,
    object_id text NOT NULL,
    customer_id text,
    subscription_id text,
    payment_intent_id text,
    facts jsonb NOT NULL,
    attempts bigint NOT NULL CHECK (attempts >= 0),
    parkings bigint NOT NULL CHECK (parkings >= 0),
    stumbles bigint NOT NULL CHECK (stumbles >= 0),
    next_at timestamptz,
    lease_until timestamptz,
    reason text NOT NULL,
    by_due text COLLATE "C"
);

CREATE INDEX stripe_events_by_due ON stripe_events (by_due) WHERE by_due IS NOT NULL;

CREATE INDEX stripe_events_newest ON stripe_events (created_at DESC, event_id DESC);

CREATE TABLE stripe_calls (
    call_id text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL,
    client_id text COLLATE "C" NOT NULL CONSTRAINT stripe_calls_client REFERENCES clients,
    mode text NOT NULL CHECK (mode IN ('test', 'live')),
    created_at timestamptz NOT NULL,
    object_id text NOT NULL,
    prorate boolean NOT NULL,
    done boolean NOT NULL,
    attempts bigint NOT NULL CHECK (attempts >= 0),
    next_at timestamptz,
    lease_until timestamptz,
    reason text NOT NULL,
    by_undone text COLLATE "C"
);

CREATE INDEX stripe_calls_by_undone ON stripe_calls (by_undone) WHERE by_undone IS NOT NULL;

CREATE TABLE ledger (
    position bigserial PRIMARY KEY,
    client_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL CHECK (number >= 1),
    kind text NOT NULL,
    time timestamptz NOT NULL,
    operation_id text NOT NULL,
    available bigint NOT NULL,
    reserved bigint NOT NULL,
    balance bigint NOT NULL CHECK (balance >= 0),
    lot_id text,
    job_id text,
    cycle_number bigint NOT NULL,
    reason text NOT NULL,
    CONSTRAINT ledger_number UNIQUE (client_id, number)
);

CREATE TABLE audit (
    position bigserial PRIMARY KEY,
    time timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    client_id text COLLATE "C",
    object_id text,
    address text,
    request_id text,
    reason text NOT NULL,
    before jsonb NOT NULL,
    after jsonb NOT NULL
);

CREATE INDEX audit_by_client ON audit (client_id, position);

-- Each gateway's newest batch: whether a commit that nobody answered came about.
CREATE TABLE batches (
    batch_id text COLLATE "C" PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        MESSAGE = TG_TABLE_NAME || ' is written once and never changed', ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER ledger_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
