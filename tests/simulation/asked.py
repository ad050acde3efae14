"""What is asked of the store: the money operations, each as the ledger and as the model know it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from openclaw_billing import accounts, ledger
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import Transaction
from openclaw_billing.records import Account, LotSource, ReservationState

ADMIN = Actor("admin")
PLANS = ("free", "starter", "enterprise")
SPANS = (1, 600, 900, 86_400, 5 * 86_400, 30 * 86_400, 75 * 86_400, -600, -86_400, -40 * 86_400)
NAMES = (
    *("reserve", "charge", "capture") * 2,
    *("release", "refund", "grant", "adjust", "claw_back", "change_plan", "log_cost", "touch"),
)
NEVER = 1 << 60


@dataclass(eq=False, slots=True)
class Asked:
    """One operation, and what came of it. `answer` is in the model's words."""

    number: int
    client_id: str
    name: str
    model_args: tuple[Any, ...]
    kwargs: dict[str, Any]
    now: datetime
    begun: int = 0
    ended: int = NEVER
    answer: object = None
    refused: bool = False
    """The store said that nothing was changed."""
    uncertain: bool = False
    """It could not keep that promise: the disk refused to take the bytes back."""

    @property
    def answered(self) -> bool:
        return self.ended != NEVER and not self.refused

    def __call__(self, tx: Transaction) -> object:
        if self.name != "create":
            return getattr(ledger, self.name)(tx, self.client_id, now=self.now, **self.kwargs)
        email = f"{self.client_id}@example.com"
        accounts.create_client(
            tx,
            client_id=self.client_id,
            name="A client",
            email=email,
            key=None,
            actor=ADMIN,
            now=self.now,
            **self.kwargs,
        )
        return None

    def __str__(self) -> str:
        return f"op{self.number} {self.name}{self.model_args} of {self.client_id} at {self.now}"


def anything(
    choice: random.Random, client_id: str, now: datetime
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A name, the model's arguments and the ledger's."""
    name = choice.choice(NAMES)
    job = choice.choice("abcdef")
    if name == "reserve":
        credits, life = choice.randint(1, 4), choice.choice((60, 900, 86_400))
        return (
            name,
            (job, credits, life),
            {"job_id": job, "credits": credits, "life": timedelta(seconds=life)},
        )
    if name == "charge":
        credits = choice.randint(1, 3)
        return name, (job, credits), {"job_id": job, "credits": credits}
    if name in ("capture", "release"):
        return name, (job,), {"job_id": job}
    if name == "refund":
        return name, (job,), {"job_id": job, "reason": "test"}
    if name == "grant":
        life = choice.choice((None, 3_600, 40 * 86_400))
        source = "purchased" if life is None else "promo"
        operation_id, credits = f"stripe:evt_{client_id}_{choice.randint(1, 4)}", choice.randint(1, 8)
        expires_at = None if life is None else now + timedelta(seconds=life)
        return (
            name,
            (operation_id, credits, source, life),
            {
                "credits": credits,
                "source": LotSource(source),
                "reason": "pack",
                "operation_id": operation_id,
                "expires_at": expires_at,
            },
        )
    if name in ("adjust", "claw_back"):
        credits = choice.choice((-6, -2, 1, 3, 6)) if name == "adjust" else choice.randint(1, 12)
        operation_id = f"{name}:{client_id}:{choice.randint(1, 6)}"
        return (
            name,
            (operation_id, credits),
            {"credits": credits, "reason": "why", "operation_id": operation_id},
        )
    if name == "change_plan":
        plan = choice.choice(PLANS)
        return name, (plan,), {"plan_id": plan}
    if name == "log_cost":
        cost = choice.choice((0, 1, 4_000, 5_500_000, 10**15))
        return name, (cost,), {"cost_usd_micros": cost}
    return name, (), {}


def in_the_models_words(answer: object) -> object:
    if isinstance(answer, ledger.Adjusted):
        return (answer.previous, answer.added, answer.now, answer.owed)
    if isinstance(answer, Account):
        return None
    state = getattr(answer, "state", None)
    return state.value if isinstance(state, ReservationState) else answer
