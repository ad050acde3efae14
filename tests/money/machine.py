"""The machine: random operations on a store and on the model side by side, every invariant after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openclaw_billing import accounts, ledger, usage
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import HistoryQuery, Store
from openclaw_billing.errors import BillingError
from openclaw_billing.keys import Peppers, key_of, new_key_text
from openclaw_billing.plans import CATALOGUE
from openclaw_billing.records import Account, EntryKind, LedgerEntry, LotSource, ReservationState
from openclaw_billing.stores.memory import MemoryStore
from tests.money.model import LIMITS, Model, Refused

START = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
PEPPERS = Peppers([("p1", b"a pepper that is long enough to be one")])
ADMIN = Actor("admin")

JOBS = st.sampled_from(["a", "b", "c", "d"])
CREDITS = st.integers(1, 4)
OPERATIONS = st.sampled_from(["stripe:evt_1", "stripe:evt_2", "adjust:1", "adjust:2", "adjust:3"])
PLANS = st.sampled_from(sorted(LIMITS))
SPANS = st.sampled_from(
    [1, 600, 900, 86_400, 5 * 86_400, 30 * 86_400, 75 * 86_400, -600, -86_400, -40 * 86_400]
)
LIVES = st.sampled_from([60, 900, 86_400])

# The factory gives a new, open store and how to reopen it as after a restart.
Opened = tuple[Store, Callable[[], Store]]
StoreFactory = Callable[[], AbstractContextManager[Opened]]


@contextmanager
def memory_store() -> Iterator[Opened]:
    store = MemoryStore()
    store.open()
    yield store, lambda: store
    store.close()


class Money(RuleBasedStateMachine):
    """One client of one store. Subclasses set `factory`; a mutant also sets `operations`."""

    factory: ClassVar[StoreFactory] = staticmethod(memory_store)  # type: ignore[assignment]
    operations: ClassVar[Any] = ledger

    @initialize(plan=PLANS)
    def create(self, plan: str) -> None:
        self.opened = type(self).factory()
        self.store, self.reopen = self.opened.__enter__()
        self.seconds = 0
        self.model = Model(plan)
        self.key = key_of(new_key_text(), PEPPERS, key_id="k0", client_id="acme", now=START)
        self.keys_made = 1
        self.store.run(
            lambda tx: accounts.create_client(
                tx,
                client_id="acme",
                name="Acme",
                email="api@acme.example",
                plan_id=plan,
                key=self.key,
                actor=ADMIN,
                now=START,
            ),
            "create_client",
        )

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.__exit__(None, None, None)

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    @property
    def account(self) -> Account:
        account = self.store.view.accounts.get("acme")
        assert account is not None
        return account

    def ledger_entries(self) -> list[LedgerEntry]:
        return self.store.ledger(HistoryQuery(client_id="acme", limit=10**6)).entries[::-1]

    def outcome(self, operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        try:
            return self.store.run(lambda tx: operation(tx, "acme", *args, **kwargs, now=self.now), "test")
        except BillingError as error:
            return type(error).__name__

    def both(
        self, name: str, model_args: tuple[object, ...], *args: Any, again: bool = True, **kwargs: Any
    ) -> None:
        """Do it in the store and in the model: the same answer; and asking again changes nothing."""
        operation = getattr(type(self).operations, name)
        try:
            expected = self.model.attempt(self.seconds, name, *model_args)
        except Refused as refusal:
            expected = str(refusal)
        answer = self.outcome(operation, args, kwargs)
        assert shown(answer) == shown(expected), (
            f"{name}{args}{kwargs}: {answer!r}, the model says {expected!r}"
        )
        if not again:
            return
        account, entries = self.account, len(self.ledger_entries())
        repeated = self.outcome(operation, args, kwargs)
        assert repeated == answer, f"{name} asked again: {repeated!r}, first {answer!r}"
        assert (self.account, len(self.ledger_entries())) == (account, entries), f"{name} counted twice"

    @rule(span=SPANS)
    def tick(self, span: int) -> None:
        self.seconds += span
        self.both_touch()

    @rule(span=SPANS)
    def tick_unseen(self, span: int) -> None:
        self.seconds += span

    def both_touch(self) -> None:
        foreseen = usage.standing(self.store.view, "acme", self.now)
        self.model.attempt(self.seconds, "look")
        self.outcome(type(self).operations.touch, (), {})
        assert usage.standing(self.store.view, "acme", self.now) == foreseen

    @rule(job=JOBS, credits=CREDITS, life=LIVES)
    def reserve(self, job: str, credits: int, life: int) -> None:
        self.both("reserve", (job, credits, life), job_id=job, credits=credits, life=timedelta(seconds=life))

    @rule(job=JOBS, credits=CREDITS)
    def charge(self, job: str, credits: int) -> None:
        self.both("charge", (job, credits), job_id=job, credits=credits)

    @rule(job=JOBS)
    def capture(self, job: str) -> None:
        self.both("capture", (job,), job_id=job)

    @rule(job=JOBS)
    def release(self, job: str) -> None:
        self.both("release", (job,), job_id=job)

    @rule(job=JOBS)
    def refund(self, job: str) -> None:
        self.both("refund", (job,), job_id=job, reason="test")

    @rule(
        operation_id=OPERATIONS, credits=st.integers(1, 8), life=st.sampled_from([None, 3_600, 40 * 86_400])
    )
    def grant(self, operation_id: str, credits: int, life: int | None) -> None:
        """A Stripe event, perhaps replayed: a pack bought, sometimes one that ends."""
        source = "purchased" if life is None else "promo"
        self.both(
            "grant",
            (operation_id, credits, source, life),
            credits,
            source=LotSource(source),
            reason="pack",
            operation_id=operation_id,
            expires_at=None if life is None else self.now + timedelta(seconds=life),
        )

    @rule(operation_id=OPERATIONS, credits=st.integers(-6, 6).filter(bool))
    def adjust(self, operation_id: str, credits: int) -> None:
        self.both("adjust", (operation_id, credits), credits, reason="why", operation_id=operation_id)

    @rule(operation_id=OPERATIONS, credits=st.integers(1, 12))
    def claw_back(self, operation_id: str, credits: int) -> None:
        self.both("claw_back", (operation_id, credits), credits, reason="why", operation_id=operation_id)

    @rule(plan=PLANS)
    def change_plan(self, plan: str) -> None:
        self.both("change_plan", (plan,), plan, again=False)

    @rule(cost=st.sampled_from([0, 1, 4_000, 5_500_000, 10**15]))
    def log_cost(self, cost: int) -> None:
        self.both("log_cost", (cost,), cost, again=False)

    @rule(grace=st.sampled_from([0, 86_400]))
    def rotate_key(self, grace: int) -> None:
        """Keys come and go; no credit moves."""
        new = key_of(new_key_text(), PEPPERS, key_id=f"k{self.keys_made}", client_id="acme", now=self.now)
        old, entries = self.key, len(self.ledger_entries())
        self.store.run(
            lambda tx: accounts.rotate_key(
                tx,
                "acme",
                old.key_id,
                new_key=new,
                grace=timedelta(seconds=grace),
                actor=ADMIN,
                now=self.now,
            ),
            "rotate_key",
        )
        view = self.store.view
        assert accounts.authenticate(view, [new.digest], self.now) is not None
        assert (accounts.authenticate(view, [old.digest], self.now) is not None) == (grace > 0)
        assert len(self.ledger_entries()) == entries
        self.key, self.keys_made = new, self.keys_made + 1

    @rule()
    def restart(self) -> None:
        self.store = self.reopen()

    @invariant()
    def the_account_is_what_the_model_says(self) -> None:
        account, model = self.account, self.model
        assert account.available == model.available
        assert account.reserved == model.reserved
        assert (account.used, account.withdrawn, account.owed) == (model.used, model.withdrawn, model.owed)
        assert account.spent_usd_micros == model.spent_usd_micros
        assert type(account.spent_usd_micros) is int
        assert account.plan_id == model.plan
        assert account.cycle_number == model.cycle
        assert account.cycle_end == START + timedelta(seconds=model.end)

    @invariant()
    def the_balance_is_the_ledgers_sum_and_never_below_zero(self) -> None:
        available = reserved = 0
        for number, entry in enumerate(self.ledger_entries(), 1):
            available += entry.available
            reserved += entry.reserved
            assert entry.number == number
            assert available >= 0
            assert reserved >= 0
            assert entry.balance == available + reserved
        assert (available, reserved) == (self.account.available, self.account.reserved)

    @invariant()
    def each_job_is_what_the_model_says_and_ended_once(self) -> None:
        for job_id, held in self.model.jobs.items():
            reservation = self.store.view.reservations.get(f"reserve:acme:{job_id}")
            assert reservation is not None
            assert reservation.state.value == held.state
            assert {draw.lot_id.split(":")[0]: draw.credits for draw in reservation.draws} == {
                name.split(":")[0]: credits for name, credits in held.draws.items()
            } or len(held.draws) > 1
        pending = self.store.view.reservations.by("pending", "acme")
        assert sum(draw.credits for each in pending for draw in each.draws) == self.account.reserved
        assert all(each.state is ReservationState.PENDING for each in pending)

    @invariant()
    def every_job_left_its_usage(self) -> None:
        captures = [entry for entry in self.ledger_entries() if entry.kind is EntryKind.CAPTURE]
        assert len(captures) == self.model.usage

    @invariant()
    def there_is_one_grant_for_each_cycle(self) -> None:
        ids = [entry.operation_id for entry in self.ledger_entries() if entry.kind is EntryKind.GRANT]
        grants = Counter(each for each in ids if each.startswith("grant:"))
        assert all(count == 1 for count in grants.values())

    @invariant()
    def the_allowance_is_what_the_plan_leaves(self) -> None:
        account, limit = self.account, CATALOGUE[self.account.plan_id].job_limit
        allowance = [lot.left for lot in account.lots if lot.source is LotSource.ALLOWANCE]
        assert allowance == ([] if limit is None else [max(0, limit - account.used - account.withdrawn)])

    @invariant()
    def the_jobs_of_a_cycle_and_what_is_left_of_it_are_no_more_than_its_limit(self) -> None:
        """What was used in the cycle are its jobs, of which none was given back, and nothing else."""
        account, jobs = self.account, self.model.jobs.values()
        counted = [
            job.draws.get(f"allowance:{account.cycle_number}", 0 if job.draws else job.credits)
            for job in jobs
            if job.state in ("pending", "captured") and job.cycle == account.cycle_number
        ]
        assert account.used == sum(counted)


def shown(answer: object) -> object:
    """An answer in the model's words."""
    if isinstance(answer, ledger.Adjusted):
        return (answer.previous, answer.added, answer.now, answer.owed)
    if isinstance(answer, Account):
        return None
    state = getattr(answer, "state", None)
    return state.value if isinstance(state, ReservationState) else answer
