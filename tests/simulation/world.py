"""A world: one history of several processes on one machine that fails as its seed says."""

from __future__ import annotations

import errno
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from openclaw_billing.errors import BillingError, CorruptStore, StartupError, StorageUnavailable
from openclaw_billing.stores import (
    backups,
    clients_watch,
    files,
    group_commit,
    hold,
    journal_end,
    journal_files,
    json_create,
    json_load,
    json_store,
    replica,
    snapshots,
)
from openclaw_billing.stores.json_store import JsonStore
from tests.simulation.asked import PLANS, SPANS, Asked, anything, in_the_models_words
from tests.simulation.judge import Judge, Violation
from tests.simulation.system import DIRECTORY_FD, Faults, System, calendar
from tests.simulation.turns import Killed, Task

MODULES: tuple[ModuleType, ...] = (
    backups,
    clients_watch,
    files,
    group_commit,
    hold,
    journal_end,
    journal_files,
    json_create,
    json_load,
    json_store,
    replica,
    snapshots,
)
CLIENTS = ("c1", "c2")
PATIENCE = 40
"""How often a process asks again once nothing fails any more."""


@contextmanager
def installed(system: System) -> Iterator[None]:
    """The store's modules run on that system, in small segments."""
    parts: dict[str, Any] = {
        "os": system.os,
        "fcntl": system.fcntl,
        "time": system.time,
        "mmap": system.mmap,
        "datetime": calendar(system.now),
        "SEGMENT_BYTES_MAX": system.choice.choice((1_500, 3_000, 64 << 20)),
        "OPERATIONS_PER_BATCH_MAX": system.choice.choice((1, 2, 512)),
    }
    before = [
        (module, name, vars(module)[name]) for module in MODULES for name in parts if name in vars(module)
    ]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for module, name, _ in before:
        setattr(module, name, parts[name])
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        logging.disable(disabled)


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.choice = random.Random(seed)
        self.system = System(self.choice)
        self.judge = Judge()
        self.seen: Counter[str] = Counter()
        self._number = 0

    def run(self) -> None:
        """Tell the whole history.

        Raises:
            Violation: the store broke a promise; the text names the seed that shows it again.
        """
        try:
            with installed(self.system):
                for _ in range(self.choice.randint(1, 3)):
                    self._recover()
                    self._era()
                self._recover()
                self._damage()
        except Violation as violation:
            raise Violation(f"seed {self.seed}: {violation}") from violation
        except Exception as error:
            # Whatever else gets out of the store is no answer that a caller was promised.
            raise Violation(f"seed {self.seed}: {type(error).__name__}: {error}") from error

    def _era(self) -> None:
        system, choice = self.system, self.choice
        system.faults = self._weather()
        system.flush_failed.clear()
        works = [partial(self._lives, actions=choice.randint(2, 9)) for _ in range(choice.randint(1, 3))]
        system.turns.run(works)
        system.faults = Faults()
        if system.power_cut or choice.random() < 0.4:
            self.seen["power cuts"] += 1
            system.reboot()
        else:
            system.switch_off()

    def _weather(self) -> Faults:
        choice = self.choice
        faults = Faults(evict=0.5)
        kind = choice.random()
        if kind < 0.35:
            faults.power = choice.choice((0.002, 0.01, 0.03))
        if 0.2 < kind < 0.55:
            faults.kill = choice.choice((0.002, 0.01))
        if choice.random() < 0.5:
            return faults
        number, names = choice.choice(
            (
                (errno.EIO, ("fdatasync",)),
                (errno.EIO, ("fdatasync", "fsync", "ftruncate")),
                (errno.EIO, ("write",)),
                (errno.EIO, ("read",)),
                (errno.ENOSPC, ("write", "create", "link")),
                (errno.EDQUOT, ("write",)),
                (errno.EROFS, ("open_to_write", "write", "create", "link", "rename", "unlink", "ftruncate")),
                (errno.EMFILE, ("open", "open_to_write")),
                (errno.ENOLCK, ("flock",)),
                (errno.ENOLCK, ("flock", "unlock")),
                (errno.ENOLCK, ("unlock",)),
            )
        )
        chance = choice.choice((0.03, 0.3, 1.0))
        faults.calls = dict.fromkeys(names, (number, chance))
        if number in (errno.ENOSPC, errno.EDQUOT):
            faults.short = 0.5
        return faults

    def _lives(self, task: Task, *, actions: int) -> None:
        """Processes one after the other, each in the place of the one before."""
        while True:
            try:
                self._live(task, actions=actions)
            except Killed:
                self.seen["killed"] += 1
                if self.system.power_cut:
                    raise
                task.dead = False
            if self.choice.random() < 0.5:
                return
            self.system.flush_failed.discard(task.number)
            if self.choice.random() < 0.5:
                self.system.faults.calls = {}

    def _live(self, task: Task, *, actions: int) -> None:
        """One process, from its start to its end."""
        store = self._store()
        try:
            store.open()
        except CorruptStore:
            raise
        except (StartupError, StorageUnavailable):
            self.seen["starts refused"] += 1
            return
        for _ in range(actions):
            self._act(store)
            self._check_health(store)
        if self.choice.random() < 0.3:
            self.system.faults = Faults(power=self.system.faults.power, kill=self.system.faults.kill)
            self._wait_until_it_works(store)
        if self.choice.random() < 0.6:
            store.close()
        else:
            self.system.kill(task)
            raise Killed

    def _act(self, store: JsonStore) -> None:
        choice, system = self.choice, self.system
        fate = choice.random()
        if fate < 0.66:
            self._ask(store)
        elif fate < 0.76:
            self._ask_together(store)
        elif fate < 0.84:
            try:
                self.seen["snapshots"] += store.snapshot(whole=choice.random() < 0.5)
            except (StorageUnavailable, OSError):
                self.seen["snapshots refused"] += 1
        elif fate < 0.90:
            store.view.accounts.get(choice.choice(CLIENTS))
            store.idle()
        elif fate < 0.95:
            system.skew += timedelta(seconds=choice.choice(SPANS))
        elif fate < 0.98:
            system.turns.sleep(choice.random() * 3)
        else:
            system.disk.names.pop("openclaw_clients.lock", None)

    def _ask(self, store: JsonStore) -> bool:
        asked = self._new(*self._something())
        self.judge.begin(asked)
        answer: object = None
        try:
            answer = store.run(asked, f"op{asked.number}")
        except StorageUnavailable as error:
            self._settle(asked, error)
            return False
        except BillingError as error:
            self._settle(asked, error)
            return True
        self._settle(asked, None, answer)
        return True

    def _ask_together(self, store: JsonStore) -> None:
        """Several at once: one batch, one flush."""
        for _ in range(self.choice.randint(1, 4)):
            asked = self._new(*self._something())
            self.judge.begin(asked)

            def settle(answer: object, error: BaseException | None, asked: Asked = asked) -> None:
                self._settle(asked, error, answer)

            try:
                store.submit(asked, f"op{asked.number}", settle)
            except StorageUnavailable as error:
                self._settle(asked, error)
        self._ask(store)

    def _settle(self, asked: Asked, error: BaseException | None, answer: object = None) -> None:
        current = self.system.turns.current
        if current is not None and current.dead:
            return
        if isinstance(error, StorageUnavailable):
            uncertain = current is not None and current.number in self.system.flush_failed
            self.seen["unavailable"] += 1
            self.judge.end(asked, None, refused=True, uncertain=uncertain)
        elif isinstance(error, BillingError):
            self.judge.end(asked, type(error).__name__)
        elif error is not None:
            raise error
        else:
            self.seen["answered"] += 1
            self.judge.end(asked, in_the_models_words(answer))

    def _something(self) -> tuple[str, str, tuple[Any, ...], dict[str, Any], datetime]:
        now, client_id = self._now(), self.choice.choice(CLIENTS)
        if self.choice.random() < 0.6 and (known := self.judge.newest()) is not None:
            # Whoever got no answer asks again, and so does whoever cannot believe it.
            return known.client_id, known.name, known.model_args, known.kwargs, known.now
        return client_id, *anything(self.choice, client_id, now), now

    def _new(
        self, client_id: str, name: str, model_args: tuple[Any, ...], kwargs: dict[str, Any], now: datetime
    ) -> Asked:
        self._number += 1
        return Asked(self._number, client_id, name, model_args, kwargs, now)

    def _now(self) -> datetime:
        return self.system.now().replace(microsecond=0)

    def _check_health(self, store: JsonStore) -> None:
        if self.choice.random() < 0.2:
            self.seen["healthy" if store.health().writable else "unhealthy"] += 1
        if self.system.holds_a_lock() and not store._lock.held:
            raise Violation("a lock is held that its holder does not know of")
        if store._replica.damaged:
            raise Violation(f"what is whole was called damaged: {store._replica.damaged}")

    def _wait_until_it_works(self, store: JsonStore) -> None:
        for _ in range(PATIENCE):
            if self._ask(store) and store.health().writable:
                return
            self.system.turns.sleep(0.5)
        raise Violation("nothing fails any more, and the store did not come back")

    def _recover(self) -> None:
        """Start once in peace: everything answered is there, and nothing else."""
        store = self._store()
        store.open()
        self.judge.inspect(self._lines(store), store.view)
        for client_id in CLIENTS:
            if store.view.clients.get(client_id) is None:
                plan = self.choice.choice(PLANS)
                asked = self._new(client_id, "create", (), {"plan_id": plan}, self._now())
                self.judge.begin(asked)
                self._settle(asked, None, store.run(asked, f"op{asked.number}"))
        found = backups.verify(store.directory, store._chain)
        if found.problems:
            raise Violation(found.problems[0])
        self.judge.inspect(self._lines(store), store.view)
        left = [name for name in self.system.disk.names if name.endswith(".tmp")]
        if left:
            raise Violation(f"left behind: {left}")
        store.close()
        self.seen["recoveries"] += 1

    def _damage(self) -> None:
        """Change one byte at rest: it is refused, or it is harmless; and nothing is changed by looking."""
        system, choice = self.system, self.choice
        names = [name for name in system.disk.names if name.startswith("openclaw_clients.journal")]
        file = system.disk.names[choice.choice(names)]
        offset = choice.randrange(len(file.content))
        file.content[offset] ^= choice.choice((1, 2, 0x20, 0x80))
        before = bytes(file.content)
        store = self._store()
        try:
            store.open()
        except CorruptStore as error:
            self.seen["damage refused"] += 1
            if bytes(file.content) != before or f"{error}".find("byte") < 0:
                raise Violation(f"a refusal that changes a file or names no byte: {error}") from error
            return
        # What a checkpoint stands for is not read at a start: `verify` reads it.
        problems = backups.verify(store.directory, store._chain).problems
        if not problems and self._lines(store) != self.judge.lines:
            raise Violation(f"{file.number}: a changed byte {offset} was not seen")
        self.judge.inspect(self.judge.lines, store.view)
        store.close()

    def _store(self) -> JsonStore:
        store = JsonStore(Path("/simulated"))
        store.directory.fd = DIRECTORY_FD
        # One thread for each process: what the threads of one do to each other is tested on the real machine.
        store._start_writer = lambda: None  # type: ignore[method-assign]
        store._snapshots.consider = lambda **_: None  # type: ignore[method-assign]
        replica, end = store._replica, store._replica.end
        # What waits is run ahead by another thread, as soon as a batch's own operations are done or while it is flushed.
        replica.append = self._beside(store, replica.append)  # type: ignore[method-assign]
        end._flush = self._beside(store, end._flush)  # type: ignore[method-assign]
        return store

    def _beside(self, store: JsonStore, step: Callable[..., None]) -> Callable[..., None]:
        def stepping(*args: Any, **kwargs: Any) -> None:
            if self.choice.random() < 0.4:
                store.run_ahead(list(store._queue))
            step(*args, **kwargs)

        return stepping

    def _lines(self, store: JsonStore) -> list[bytes]:
        names = [journal_files.closed_name(n) for n in json_load._really_closed(store.directory)]
        lines: list[bytes] = []
        for name in [*names, journal_files.JOURNAL]:
            lines += bytes(self.system.disk.names[name].content).splitlines()
        return lines
