"""The model: a client's credits as whole numbers in plain dicts, times as seconds. It imports nothing of ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

CYCLE_SECONDS = 30 * 86_400
LIMITS: dict[str, int | None] = {"free": 5, "starter": 50, "enterprise": None}
FOREVER = 10**15


class Refused(Exception):
    """The model refuses; the text is the name of the error that the house must raise."""


@dataclass
class Lot:
    left: int
    ends: int
    purchased: bool = False


@dataclass
class Held:
    """What one job holds."""

    credits: int
    state: str
    draws: dict[str, int]
    cycle: int
    ends: int


@dataclass
class Model:
    plan: str
    cycle: int = 0
    end: int = CYCLE_SECONDS
    used: int = 0
    withdrawn: int = 0
    owed: int = 0
    spent_usd_micros: int = 0
    lots: dict[str, Lot] = field(default_factory=dict)
    jobs: dict[str, Held] = field(default_factory=dict)
    answers: dict[str, tuple[tuple[object, ...], tuple[int, ...]]] = field(default_factory=dict)
    usage: int = 0

    def __post_init__(self) -> None:
        self.fit_allowance()

    @property
    def available(self) -> int:
        return sum(lot.left for lot in self.lots.values())

    @property
    def reserved(self) -> int:
        return sum(sum(job.draws.values()) for job in self.jobs.values() if job.state == "pending")

    def attempt(self, now: int, operation: str, *args: object) -> object:
        """The answer, after which all of it has happened; or a refusal, after which none has."""
        before = copy.deepcopy(self.__dict__)
        try:
            self.touch(now)
            return getattr(self, operation)(now, *args)
        except Refused:
            self.__dict__.update(before)
            raise

    def touch(self, now: int) -> None:
        due = [
            (job.ends, name) for name, job in self.jobs.items() if job.state == "pending" and now >= job.ends
        ]
        for _, name in sorted(due):
            self.set_free(name, "expired")
        self.lots = {name: lot for name, lot in self.lots.items() if now < lot.ends}
        if now >= self.end:
            self.cycle = now // CYCLE_SECONDS
            self.end = (self.cycle + 1) * CYCLE_SECONDS
            self.used = self.withdrawn = 0
            self.fit_allowance()
            self.pay()

    def fit_allowance(self) -> None:
        limit = LIMITS[self.plan]
        self.lots.pop(f"allowance:{self.cycle}", None)
        if limit is not None:
            self.lots[f"allowance:{self.cycle}"] = Lot(max(0, limit - self.used - self.withdrawn), self.end)

    def draw(self, credits: int, last_first: bool = False) -> dict[str, int]:
        draws: dict[str, int] = {}
        order = sorted(
            self.lots,
            key=lambda name: (self.lots[name].purchased, self.lots[name].ends, name),
            reverse=last_first,
        )
        for name in order:
            taken = min(self.lots[name].left, credits - sum(draws.values()))
            if taken:
                self.lots[name].left -= taken
                draws[name] = taken
        return draws

    def withdraw(self, credits: int, last_first: bool = False) -> None:
        """Take credits away, and not for a job."""
        draws = self.draw(credits, last_first)
        self.withdrawn += draws.get(f"allowance:{self.cycle}", 0)

    def pay(self) -> None:
        paid = min(self.owed, self.available)
        self.withdraw(paid, last_first=True)
        self.owed -= paid

    def put_back(self, job: Held) -> int:
        """Give the job's credits back to their lots; how many had none to go to."""
        homeless = 0
        if not job.draws and job.cycle == self.cycle:
            self.used -= job.credits
            self.fit_allowance()
        for name, credits in job.draws.items():
            if name == f"allowance:{self.cycle}":
                self.used -= credits
                if name in self.lots:
                    room = max(0, (LIMITS[self.plan] or 0) - self.used - self.withdrawn)
                    self.lots[name].left = min(self.lots[name].left + credits, room)
            elif name in self.lots:
                self.lots[name].left += credits
            else:
                homeless += credits
        return homeless

    def set_free(self, name: str, state: str) -> None:
        self.put_back(self.jobs[name])
        self.jobs[name].state = state
        self.pay()

    def reserve(self, now: int, name: str, credits: int, life: int) -> str:
        return self._take(now, name, credits, now + life)

    def charge(self, now: int, name: str, credits: int) -> str:
        job = self.jobs.get(name)
        if job is not None and job.credits == credits and job.state == "pending":
            return self.capture(now, name)
        return self._take(now, name, credits, None)

    def _take(self, now: int, name: str, credits: int, ends: int | None) -> str:
        job = self.jobs.get(name)
        if job is not None:
            if job.credits != credits:
                raise Refused("IdMismatch")
            if job.state in ("pending", "captured"):
                return job.state
        return self._draw_for(name, credits, ends)

    def _draw_for(self, name: str, credits: int, ends: int | None) -> str:
        if self.owed:
            raise Refused("PaymentOverdue")
        draws: dict[str, int] = {}
        if LIMITS[self.plan] is None:
            self.used += credits
        elif self.available < credits:
            raise Refused("QuotaExceeded")
        else:
            draws = self.draw(credits)
            self.used += draws.get(f"allowance:{self.cycle}", 0)
        state = "captured" if ends is None else "pending"
        self.usage += ends is None
        self.jobs[name] = Held(credits, state, draws, self.cycle, FOREVER if ends is None else ends)
        return state

    def capture(self, now: int, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            raise Refused("NotFound")
        if job.state == "pending":
            job.state = "captured"
            self.usage += 1
        elif job.state == "expired":
            return self._draw_for(name, job.credits, None)
        elif job.state != "captured":
            raise Refused("Conflict")
        return "captured"

    def release(self, now: int, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            raise Refused("NotFound")
        if job.state in ("captured", "refunded"):
            raise Refused("Conflict")
        if job.state == "pending":
            self.set_free(name, "released")
        return job.state

    def refund(self, now: int, name: str) -> str:
        job = self.jobs.get(name)
        if job is None or job.state not in ("captured", "refunded"):
            raise Refused("Conflict")
        if job.state == "captured":
            homeless = self.put_back(job)
            if homeless:
                self.add(f"refund:{self.end}", homeless, self.end, False)
            job.state = "refunded"
            self.pay()
        return "refunded"

    def add(self, name: str, credits: int, ends: int, purchased: bool) -> None:
        lot = self.lots.setdefault(name, Lot(0, ends, purchased))
        lot.left += credits

    def grant(
        self, now: int, operation_id: str, credits: int, source: str, life: int | None
    ) -> tuple[int, ...]:
        ends = FOREVER if life is None else now + life
        asked = ("grant", credits, source, ends)
        if operation_id in self.answers:
            return self._answered(operation_id, asked)
        before = self.available
        name = source if life is None else f"{source}:{ends}"
        self.add(name, credits, ends, source == "purchased")
        self.pay()
        return self._answer(operation_id, asked, before, credits)

    def adjust(self, now: int, operation_id: str, credits: int) -> tuple[int, ...]:
        asked = ("adjust", credits)
        if operation_id in self.answers:
            return self._answered(operation_id, asked)
        if LIMITS[self.plan] is None:
            raise Refused("UnlimitedPlan")
        before = self.available
        if credits > 0:
            back = self.restored(credits)
            if back < credits:
                self.add("promo", credits - back, FOREVER, False)
            self.pay()
        elif -credits > before:
            raise Refused("Unprocessable")
        else:
            self.withdraw(-credits)
        return self._answer(operation_id, asked, before, credits)

    def restored(self, credits: int) -> int:
        """How many of the credits go back to the allowance that they were withdrawn from."""
        limit = LIMITS[self.plan]
        if limit is None or limit < self.used + self.withdrawn:
            return 0
        back = min(credits, self.withdrawn)
        self.withdrawn -= back
        self.lots[f"allowance:{self.cycle}"].left += back
        return back

    def claw_back(self, now: int, operation_id: str, credits: int) -> tuple[int, ...]:
        asked = ("claw_back", credits)
        if operation_id in self.answers:
            return self._answered(operation_id, asked)
        before = self.available
        taken = min(before, credits)
        self.withdraw(taken, last_first=True)
        self.owed += credits - taken
        return self._answer(operation_id, asked, before, -taken)

    def change_plan(self, now: int, plan: str) -> None:
        if plan == self.plan:
            raise Refused("Conflict")
        self.plan = plan
        self.fit_allowance()
        self.pay()

    def log_cost(self, now: int, cost_usd_micros: int) -> None:
        self.spent_usd_micros += cost_usd_micros

    def look(self, now: int) -> None:
        """Nothing but the touch that comes before everything."""

    def _answer(
        self, operation_id: str, asked: tuple[object, ...], before: int, added: int
    ) -> tuple[int, ...]:
        self.answers[operation_id] = (asked, (before, added, self.available, self.owed))
        return self.answers[operation_id][1]

    def _answered(self, operation_id: str, asked: tuple[object, ...]) -> tuple[int, ...]:
        first, answer = self.answers[operation_id]
        if first != asked:
            raise Refused("IdMismatch")
        return answer
