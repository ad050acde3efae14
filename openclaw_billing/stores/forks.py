"""Forks: a child has its parent's memory, but none of its threads, and must use nothing that is the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Whatever must be told of a fork."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


def survive_forks(store: Forked) -> None:
    """Tell the store of every fork for as long as it is in use."""
    known = weakref.ref(store)
    # Nobody can be told of the end of a fork who was not told of its beginning.
    told: list[Forked] = []

    def before() -> None:
        if (alive := known()) is not None:
            alive.before_fork()
            told.append(alive)

    def in_parent() -> None:
        while told:
            told.pop().after_fork_in_parent()

    def in_child() -> None:
        while told:
            told.pop().after_fork_in_child()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
