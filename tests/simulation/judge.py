"""The judge: what the disk holds, held against every answer that was given.

The journal is one order of everything that happened. Replayed on a model that shares no code with the
ledger it must explain each answer, in an order that respects which call ended before which began. A call
that left no line must have changed nothing, at a moment while it ran.
"""

from __future__ import annotations

import copy
import json
from datetime import datetime
from typing import Any

from openclaw_billing.records import Account
from openclaw_billing.stores.tables import Base
from tests.money.model import Model, Refused
from tests.simulation.asked import Asked


class Violation(AssertionError):
    """The store broke a promise."""


class Judge:
    def __init__(self) -> None:
        self.asked: dict[int, Asked] = {}
        self.models: dict[str, Model] = {}
        self._born: dict[str, datetime] = {}
        self.lines: list[bytes] = []
        self._open: list[Asked] = []
        self._stamp = 0
        self._newest_begin = 0

    def begin(self, asked: Asked) -> None:
        self._stamp += 1
        asked.begun = self._stamp
        self.asked[asked.number] = asked
        self._open.append(asked)

    def end(self, asked: Asked, answer: object, *, refused: bool = False, uncertain: bool = False) -> None:
        self._stamp += 1
        asked.ended, asked.answer = self._stamp, answer
        asked.refused, asked.uncertain = refused, uncertain

    def newest(self) -> Asked | None:
        """The last that was asked and is not settled yet."""
        open_ = [each for each in self._open if each.name != "create"]
        return open_[-1] if open_ else None

    def inspect(self, lines: list[bytes], base: Base) -> None:
        """After a recovery. What was asked before is settled hereafter.

        Raises:
            Violation: an answer is not what the journal explains.
        """
        known = len(self.lines)
        if lines[:known] != self.lines:
            raise Violation("entries that were durable are gone or changed")
        written: list[Asked] = []
        for line in lines[known:]:
            number = _number(json.loads(line)["op"])
            if number is not None:
                written.append(self._told(number))
        silent = [each for each in self._open if each.answered and each not in written]
        windows = [(each, *_window(each, written)) for each in silent]
        for position in range(len(written) + 1):
            windows = [
                each for each in windows if not each[1] <= position <= each[2] or not self._explains(each[0])
            ]
            if position < len(written):
                self._replay(written[position])
        if windows:
            raise Violation(f"{windows[0][0]} was answered {windows[0][0].answer!r}, and nothing explains it")
        for client_id, model in self.models.items():
            _compare(model, base.accounts.get(client_id), client_id)
        self.lines = lines
        self._open.clear()

    def _told(self, number: int) -> Asked:
        asked = self.asked.get(number)
        if asked is None or asked not in self._open:
            raise Violation(f"op{number} stands in the journal twice")
        if asked.refused and not asked.uncertain:
            raise Violation(f"{asked} was refused, and happened all the same")
        return asked

    def _replay(self, asked: Asked) -> None:
        if asked.ended < self._newest_begin:
            raise Violation(f"{asked} ended before one began that stands before it")
        self._newest_begin = max(self._newest_begin, asked.begun)
        if asked.name == "create":
            self.models[asked.client_id] = Model(asked.kwargs["plan_id"])
            self._born[asked.client_id] = asked.now
            return
        expected = self._answer(self.models[asked.client_id], asked)
        if isinstance(expected, Refused):
            raise Violation(f"{asked} happened, the model refuses it: {expected}")
        if asked.answered and asked.answer != expected:
            raise Violation(f"{asked} was answered {asked.answer!r}, the model says {expected!r}")

    def _explains(self, asked: Asked) -> bool:
        """Whether the call, made now, has that answer and changes nothing."""
        model = self.models.get(asked.client_id)
        if model is None:
            return asked.answer == "NotFound"
        tried, touched = copy.deepcopy(model), copy.deepcopy(model)
        expected = self._answer(tried, asked)
        if isinstance(expected, Refused):
            return asked.answer == str(expected)
        touched.attempt(self._seconds(asked), "look")
        return asked.answer == expected and tried == touched

    def _answer(self, model: Model, asked: Asked) -> object:
        name = "look" if asked.name == "touch" else asked.name
        try:
            return model.attempt(self._seconds(asked), name, *asked.model_args)
        except Refused as refusal:
            return refusal

    def _seconds(self, asked: Asked) -> int:
        return int((asked.now - self._born[asked.client_id]).total_seconds())


def _number(operation: str) -> int | None:
    return int(operation[2:]) if operation.startswith("op") and operation[2:].isdigit() else None


def _window(asked: Asked, written: list[Asked]) -> tuple[int, int]:
    """Between which of the written ones it may have happened."""
    before = [index + 1 for index, each in enumerate(written) if each.ended < asked.begun]
    after = [index for index, each in enumerate(written) if each.begun > asked.ended]
    return max(before, default=0), min(after, default=len(written))


def _compare(model: Model, account: Account | None, client_id: str) -> None:
    if account is None:
        raise Violation(f"{client_id} is gone")
    ours: dict[str, Any] = {
        "available": account.available,
        "reserved": account.reserved,
        "spent": account.spent_usd_micros,
        "used": account.used,
        "withdrawn": account.withdrawn,
        "owed": account.owed,
        "cycle": account.cycle_number,
    }
    theirs = {
        "available": model.available,
        "reserved": model.reserved,
        "spent": model.spent_usd_micros,
        "used": model.used,
        "withdrawn": model.withdrawn,
        "owed": model.owed,
        "cycle": model.cycle,
    }
    if ours != theirs:
        raise Violation(f"{client_id}: {ours}, the model says {theirs}")
