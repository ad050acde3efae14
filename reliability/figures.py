"""What is published, and what measures it."""

from __future__ import annotations

from functools import partial

from reliability import durable, shared, strangers
from reliability.figure import Figure, Seen, Skipped, by_tests


def all_of(*measures: object) -> Seen:
    """Several measurements of one figure: what each saw."""
    texts, met = [], True
    for measure in measures:
        try:
            seen: Seen = measure()  # type: ignore[operator]
        except Skipped as reason:
            texts.append(f"skipped: {reason}")
            continue
        texts.append(seen.text)
        met = met and seen.met
    return Seen("; ".join(texts), met)


def not_built(reason: str) -> Seen:
    raise Skipped(reason)


FIGURES: tuple[Figure, ...] = (
    Figure(
        "R1",
        "power cut: 0 answers lost in 10,000 crash states",
        partial(all_of, partial(durable.simulated, 9_500), durable.power_cut_on_ext4),
        partial(all_of, partial(durable.simulated, 600), partial(durable.power_cut_on_ext4, 20)),
    ),
    Figure(
        "R2",
        "kill -9: 0 lost, doubled, ghost or wrong in 1,000 kills and 100,000 operations",
        durable.killed,
        partial(durable.killed, 50),
    ),
    Figure("R3", "a crash at each storage call: 0 bad of 200", durable.crash_points),
    Figure("R4", "a changed byte: 0 silently wrong, 0 silently empty", durable.flipped_bytes),
    Figure(
        "R5",
        "a disk with errors, full, read-only: 503, reads go on, back without a restart",
        by_tests("tests/stores/test_io_errors.py", "tests/stores/test_real_faults.py"),
    ),
    Figure(
        "R6", "a stuck lock: 503 in 2.0 ± 0.2 s; a dead holder: 10 ms", shared.stuck_lock, shared.stuck_lock
    ),
    Figure(
        "R7",
        "accepted = deducted with 1, 2, 4, 8 workers, 0 × 5xx in 10,000",
        shared.accepted_is_deducted,
        partial(shared.accepted_is_deducted, 300, (1, 2)),
    ),
    Figure("R8", "one grant a cycle: 16 processes, clocks jump ± 400 d", shared.jumping_clocks),
    Figure("R9", "100,000 clients and 1 M entries load in 5 s; a restore is exact", durable.loading),
    Figure(
        "R10",
        "PostgreSQL cut off and back: 0 lost",
        by_tests("tests/stores/test_postgres.py", "tests/stores/test_postgres_gateway.py", slow=True),
    ),
    Figure(
        "R11",
        "every planted bug of money and of the files is found",
        by_tests("tests/simulation", "tests/money/test_mutants.py", "-k", "planted_bug", slow=True),
    ),
    Figure(
        "S1",
        "0 of the guide's 32 holes",
        by_tests("tests/test_seed_holes.py", "tests/stripe"),
        by_tests("tests/test_seed_holes.py"),
    ),
    Figure(
        "S2",
        "0 × 500 over 20,000 generated requests, refusals of 2 KB",
        strangers.generated_requests,
        partial(strangers.generated_requests, 500),
    ),
    Figure("S3", "100 MB uploads: memory + 5 MB", strangers.huge_bodies, strangers.huge_bodies),
    Figure("S4", "a bad key: 50 µs, flat to 100,000 clients", strangers.bad_keys, strangers.bad_keys),
    Figure(
        "S5",
        "a revoked key is refused by every worker at once",
        by_tests("tests/test_workers.py", "-k", "revoked"),
    ),
    Figure("S6", "canary secrets: 0 hits", by_tests("tests/test_canary.py")),
    Figure("S7", "failures are throttled by address and in all", by_tests("tests/test_failures.py")),
    Figure(
        "S8", "path × Host × root path: 0 of 5,000 pass", strangers.past_the_guard, strangers.past_the_guard
    ),
    Figure("S9", "tampering with the journal is found, a cut tail too", durable.tampering, durable.tampering),
    Figure(
        "S10", "addresses of our own network are no webhook's", partial(not_built, "no webhook goes out yet")
    ),
    Figure("S11", "each requirement of docs/security.md has its test", by_tests("tests/test_promises.py")),
    Figure("S12", "fields encrypted at rest", partial(not_built, "no wrapping key can be configured yet")),
    Figure("A1", "/health p99 < 50 ms beside a flush of 2 s", shared.health_during_a_slow_flush),
    Figure(
        "A2",
        "Stripe down: jobs go on, events wait and converge",
        by_tests("tests/stripe/test_inbox.py", "tests/stripe/test_account.py", "tests/stripe/test_calls.py"),
    ),
    Figure("A3", "the shared limiter lost: nobody refused for it", by_tests("tests/limits")),
    Figure(
        "A4",
        "SIGTERM: 0 answered lost, 0 charged without a job",
        shared.ended_under_load,
        shared.ended_under_load,
    ),
)
