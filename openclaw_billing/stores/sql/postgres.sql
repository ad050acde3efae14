-- Named blocks; {…} is filled in for each table by postgres_sql.py, %(…)s for each statement.

-- name: get
SELECT row_to_json(found) FROM (SELECT {columns} FROM {table} WHERE {key} = %(key)s) AS found

-- name: by
SELECT row_to_json(found) FROM (SELECT {columns} FROM {table} WHERE {by} = %(value)s) AS found

-- name: up to
SELECT row_to_json(found) FROM (
    SELECT {columns} FROM {table} WHERE {by} <= %(value)s ORDER BY {by} LIMIT %(limit)s
) AS found

-- name: some
SELECT {key}, row_to_json(found) FROM (
    SELECT {columns} FROM {table} WHERE {key} > %(after)s ORDER BY {key} LIMIT %(limit)s
) AS found

-- name: get some
SELECT row_to_json(found) FROM (SELECT {columns} FROM {table} WHERE {key} = ANY(%(keys)s)) AS found

-- name: lock
SELECT row_to_json(found) FROM (
    SELECT {columns} FROM {table} WHERE {key} = ANY(%(keys)s) ORDER BY {key} FOR NO KEY UPDATE
) AS found

-- name: lock by
SELECT row_to_json(found) FROM (
    SELECT {columns} FROM {table} WHERE {by} = ANY(%(values)s) ORDER BY {key} FOR NO KEY UPDATE
) AS found

-- name: lock all
LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE

-- name: all
SELECT row_to_json(found) FROM (SELECT {columns} FROM {table}) AS found

-- name: still absent
LOCK TABLE {table} IN SHARE MODE

-- name: appeared
SELECT {key} FROM {table} WHERE {key} = ANY(%(keys)s)

-- name: insert
INSERT INTO {table} ({written})
SELECT {written} FROM json_populate_recordset(
    json_populate_record(NULL::{table}, %(defaults)s), %(rows)s
)
WHERE {only_if}

-- name: write
INSERT INTO {table} ({written})
SELECT {written} FROM json_populate_recordset(
    json_populate_record(NULL::{table}, %(defaults)s), %(rows)s
)
WHERE {only_if}
ON CONFLICT ({key}) DO UPDATE SET {assigned}

-- name: unchanged
SELECT set_config('openclaw.unchanged', (count(*) = %(count)s)::text, true) FROM (
    SELECT FROM accounts
    JOIN unnest(%(keys)s::text[], %(versions)s::text[]) AS known (key, version)
        ON client_id = known.key AND accounts.xmin::text = known.version
    ORDER BY client_id FOR NO KEY UPDATE OF accounts
) AS found

-- name: and absent
SELECT set_config('openclaw.unchanged', (
    current_setting('openclaw.unchanged') = 'true'
    AND NOT EXISTS (SELECT FROM {table} WHERE {key} = ANY(%(keys)s))
)::text, true)

-- name: transaction
SELECT pg_current_xact_id()::text::bigint

-- name: delete
DELETE FROM {table} WHERE {key} = ANY(%(keys)s)

-- name: page
SELECT row_to_json(found) FROM (
    SELECT {columns} FROM {table} WHERE {wanted}
    ORDER BY {newest} DESC, {key} DESC LIMIT %(limit)s
) AS found

-- name: count
SELECT count(*) FROM {table} WHERE {wanted}

-- name: all counted
SELECT count(*) FROM {table}

-- name: written
SELECT count(*), count(*) FILTER (WHERE age(xmin) <= age(pg_current_xact_id()::xid)) FROM {table} WHERE {wanted}

-- name: history
SELECT row_to_json(found) FROM (
    SELECT position, {columns} FROM {table} WHERE {wanted} ORDER BY position DESC LIMIT %(limit)s
) AS found

-- name: history from
SELECT row_to_json(found) FROM (
    SELECT position, {columns} FROM {table} WHERE position > %(after)s ORDER BY position LIMIT %(limit)s
) AS found

-- name: batch
WITH before AS (DELETE FROM batches WHERE batch_id = %(before)s)
INSERT INTO batches (batch_id) VALUES (%(batch_id)s)

-- name: batch if unchanged
WITH before AS (DELETE FROM batches WHERE batch_id = %(before)s)
INSERT INTO batches (batch_id) SELECT %(batch_id)s WHERE current_setting('openclaw.unchanged') = 'true'

-- name: fence
INSERT INTO batches (batch_id) VALUES (%(batch_id)s) ON CONFLICT DO NOTHING RETURNING batch_id

-- name: old batches
DELETE FROM batches WHERE made_at < now() - interval '1 day'

-- name: notify
SELECT pg_notify(%(channel)s, word) FROM unnest(%(words)s::text[]) AS word

-- name: durable
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- name: any
SELECT 1 FROM {table} LIMIT 1

-- name: own facts
SELECT name, value FROM facts WHERE name = ANY(%(names)s)

-- name: standing
SELECT pg_is_in_recovery(), (SELECT value FROM facts WHERE name = %(moved)s)

-- name: folding
SELECT quote_ident(nspname) || '.' || quote_ident(collname)
FROM pg_collation JOIN pg_namespace ON pg_namespace.oid = collnamespace
WHERE nspname = 'pg_catalog' AND collname IN ('pg_unicode_fast', 'pg_c_utf8', 'und-x-icu')
ORDER BY collname <> 'pg_unicode_fast', collname <> 'pg_c_utf8' LIMIT 1

-- name: how many
SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM ledger)

-- name: unsound
WITH told AS (
    SELECT client_id, number, available, reserved, balance,
        sum(available + reserved) OVER (PARTITION BY client_id ORDER BY number) AS summed
    FROM ledger
), summed AS (
    SELECT client_id, sum(available)::bigint AS available, sum(reserved)::bigint AS reserved,
        count(*) AS entries, max(number) AS newest, min(number) FILTER (WHERE balance <> summed) AS wrong
    FROM told GROUP BY client_id
), pending AS (
    SELECT client_id, sum(credits)::bigint AS credits FROM reservations WHERE state = 'pending' GROUP BY client_id
), held AS (
    SELECT client_id, reserved, entries,
        (SELECT coalesce(sum((lot ->> 2)::bigint), 0)::bigint FROM jsonb_array_elements(lots) AS lot) AS available
    FROM accounts
), whole AS (
    SELECT client_id, held.client_id IS NOT NULL AS has_account, held.available, held.reserved, held.entries,
        coalesce(summed.available, 0) AS told_available, coalesce(summed.reserved, 0) AS told_reserved,
        coalesce(summed.entries, 0) AS told_entries, coalesce(summed.newest, 0) AS newest, summed.wrong,
        coalesce(pending.credits, 0) AS pending
    FROM clients FULL JOIN held USING (client_id) FULL JOIN summed USING (client_id) FULL JOIN pending USING (client_id)
)
SELECT * FROM whole
WHERE NOT has_account OR wrong IS NOT NULL OR pending <> reserved
    OR (available, reserved) <> (told_available, told_reserved)
    OR entries <> told_entries OR newest <> told_entries
ORDER BY client_id

-- name: leave
CREATE OR REPLACE FUNCTION refuse_what_was_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = 'the store was moved elsewhere', ERRCODE = 'cannot_connect_now';
END
$$

CREATE TRIGGER store_was_moved BEFORE INSERT ON batches FOR EACH STATEMENT EXECUTE FUNCTION refuse_what_was_moved()
