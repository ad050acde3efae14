"""Bugs planted on purpose: in the protocol of the files and in the rules of money."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from openclaw_billing import ledger, turning
from openclaw_billing.contracts import Transaction
from openclaw_billing.errors import CorruptStore
from openclaw_billing.records import Reservation, ReservationState
from openclaw_billing.stores import journal_files, json_load
from openclaw_billing.stores.ahead import Ahead
from openclaw_billing.stores.files import Directory, FileLock
from openclaw_billing.stores.journal import Chain, Reader, Tail
from openclaw_billing.stores.journal_end import JournalEnd
from openclaw_billing.stores.layers import NOTHING, Asked, Layer
from openclaw_billing.stores.replica import Replica
from tests.money.test_mutants import MUTANTS

Plant = Callable[[pytest.MonkeyPatch], None]


def the_directory_is_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """A new name is in memory only."""
    patch.setattr(Directory, "sync", lambda self: None)


def answered_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """What was written is taken for durable."""
    patch.setattr(JournalEnd, "_flush", lambda self: None)


def a_flush_that_failed_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    """The second one succeeds: the kernel has called the lost pages clean."""
    flush = JournalEnd._flush

    def again(self: JournalEnd) -> None:
        system = flush.__globals__["os"]
        try:
            system.fdatasync(self.fd)
        except OSError:
            with contextlib.suppress(OSError):
                system.fdatasync(self.fd)
        self.unproven = False

    patch.setattr(JournalEnd, "_flush", again)


def a_failed_append_stays(patch: pytest.MonkeyPatch) -> None:
    """Refused bytes are left where the next process takes them for an answer."""
    patch.setattr(JournalEnd, "_cut_back", lambda self: None)


def a_short_write_counts(patch: pytest.MonkeyPatch) -> None:
    """Whoever writes less than asked is believed."""

    def append(self: JournalEnd, data: bytes) -> None:
        append_once(self, data)
        self._flush()

    def append_once(self: JournalEnd, data: bytes) -> None:
        JournalEnd.prove.__globals__["os"].write(self.fd, data)

    patch.setattr(JournalEnd, "append", append)


def cut_at_the_first_bad_record(patch: pytest.MonkeyPatch) -> None:
    """Whatever cannot be read, and all behind it, never happened."""

    def tail(self: Reader, data: bytes, base: int, good: int) -> Tail:
        return Tail(good, torn=good if data[good - base :] else None)

    patch.setattr(Reader, "tail", tail)


def a_torn_tail_is_damage(patch: pytest.MonkeyPatch) -> None:
    """A power cut in the middle of a write is the end of the store."""

    def tail(self: Reader, data: bytes, base: int, good: int) -> Tail:
        if data[good - base :]:
            raise CorruptStore(self.path, "torn", offset=good)
        return Tail(good)

    patch.setattr(Reader, "tail", tail)


def sums_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A changed byte that still is JSON is believed."""
    patch.setattr(Chain, "is_sealed", lambda self, line: line.endswith(b'"}'))


def a_snapshot_is_renamed_before_its_flush(patch: pytest.MonkeyPatch) -> None:
    """The name is durable, the content is not."""

    def write_new(self: Directory, name: str, chunks: Any) -> None:
        system = Directory.sync.__globals__["os"]
        self.remove(name)
        fd = self.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with system.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)

    patch.setattr(Directory, "write_new", write_new)


def a_snapshot_is_named_before_its_mark(patch: pytest.MonkeyPatch) -> None:
    """The files are in place, and the journal does not know them."""
    append_mark = Replica.append_mark

    def late(self: Replica, name: str, mark: dict[str, Any]) -> None:
        if name == "snapshot":
            self._directory.replace(f"{journal_files.CLIENTS}.tmp", journal_files.CLIENTS)
            self._directory.replace(f"{journal_files.CHECKPOINT}.tmp", journal_files.CHECKPOINT)
            self._directory.sync()
            patch.setattr(Directory, "replace", only_if_there)
        append_mark(self, name, mark)

    renamed = Directory.replace

    def only_if_there(self: Directory, old: str, new: str) -> None:
        if self.exists(old):
            renamed(self, old, new)

    patch.setattr(Replica, "append_mark", late)


def the_closed_segment_is_named_last(patch: pytest.MonkeyPatch) -> None:
    """Between the two steps the history has no name."""
    from openclaw_billing.stores import replica

    def begin_segment(directory: Directory, segment: int, sealed: bytes) -> None:
        system = Directory.sync.__globals__["os"]
        directory.write_new(f"{journal_files.JOURNAL}.tmp", [sealed])
        closed = journal_files.closed_name(segment)
        system.replace(journal_files.JOURNAL, closed, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        directory.replace(f"{journal_files.JOURNAL}.tmp", journal_files.JOURNAL)
        directory.sync()

    patch.setattr(replica, "begin_segment", begin_segment)


def the_lock_is_dropped_early(patch: pytest.MonkeyPatch) -> None:
    """Read under the lock, written without it."""
    append = Replica.append

    def unlocked(self: Replica, *args: Any, **kwargs: Any) -> None:
        held[self._directory].release()
        append(self, *args, **kwargs)

    held: dict[Directory, FileLock] = {}
    acquire_now = FileLock.acquire_now

    def remembered(self: FileLock) -> bool:
        held[self._directory] = self
        return acquire_now(self)

    patch.setattr(FileLock, "acquire_now", remembered)
    patch.setattr(Replica, "append", unlocked)


def nobody_looks_at_the_lock(patch: pytest.MonkeyPatch) -> None:
    """Everybody holds it."""

    def acquire_now(self: FileLock) -> bool:
        self.held = True
        return True

    patch.setattr(FileLock, "acquire_now", acquire_now)


def a_lock_that_cannot_be_given_back_is_an_error(patch: pytest.MonkeyPatch) -> None:
    """What is durable already is refused for it."""

    def release(self: FileLock) -> None:
        self.held = False
        system = Directory.claim.__globals__["fcntl"]
        for fd in reversed(self._fds):
            system.flock(fd, system.LOCK_UN)

    patch.setattr(FileLock, "release", release)


def a_lock_that_cannot_be_given_back_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told, and everybody else waits for it."""

    def release(self: FileLock) -> None:
        self.held = False
        system = Directory.claim.__globals__["fcntl"]
        for fd in reversed(self._fds):
            with contextlib.suppress(OSError):
                system.flock(fd, system.LOCK_UN)

    patch.setattr(FileLock, "release", release)


def a_new_lock_file_is_a_new_lock(patch: pytest.MonkeyPatch) -> None:
    """Only the file is locked, and nobody asks whether it still is the one that others open."""

    def opened(self: FileLock) -> None:
        self._fds.append(self._directory.open_file(self._name, os.O_RDWR | os.O_CREAT))

    patch.setattr(FileLock, "_open", opened)
    patch.setattr(FileLock, "_is_current", lambda self: True)


def what_others_wrote_is_not_read(patch: pytest.MonkeyPatch) -> None:
    """Behind the lock it stands where it stood before."""
    patch.setattr(Replica, "catch_up", lambda self: None)


def a_batch_run_ahead_is_believed_whatever_was_written(patch: pytest.MonkeyPatch) -> None:
    """What it looked at was changed since, and it holds all the same."""
    patch.setattr(Asked, "overlaps", lambda self, rows: False)


def a_batch_run_over_one_that_failed_is_believed(patch: pytest.MonkeyPatch) -> None:
    """The batch before it was refused, and it goes on as if that had happened."""

    def failed(self: Ahead) -> None:
        self._committing = NOTHING

    patch.setattr(Ahead, "failed", failed)


def a_batch_run_ahead_does_not_know_the_one_before(patch: pytest.MonkeyPatch) -> None:
    """It is run over the base alone while another batch of its own process is made durable."""
    patch.setattr(Ahead, "committing", lambda self, batch: None)
    patch.setattr(Asked, "overlaps", lambda self, rows: False)


def a_batch_run_beside_another_is_believed(patch: pytest.MonkeyPatch) -> None:
    """It began when the operations of the one before were done, and that one's flush had not begun."""

    def committed(self: Ahead, batch: Layer, seq: int) -> None:
        self._committing = NOTHING
        if self._asked is not None:
            self._asked.under, self._seq = NOTHING, seq

    patch.setattr(Ahead, "committed", committed)


def what_others_wrote_is_taken_for_durable(patch: pytest.MonkeyPatch) -> None:
    """Its writer died before the flush, and we answer as if it had not."""
    patch.setattr(JournalEnd, "prove", lambda self: None)


def a_missing_journal_is_an_empty_store(patch: pytest.MonkeyPatch) -> None:
    """Corrupt is empty, and the next save wipes everybody."""

    def load(directory: Directory, chain: Chain, **_: Any) -> Any:
        try:
            return really(directory, chain)
        except CorruptStore:
            directory.write_new(journal_files.JOURNAL, [])
            return json_load.Loaded()

    from openclaw_billing.stores import replica

    really = json_load.load
    patch.setattr(replica, "load", load)


FILES: tuple[Plant, ...] = (
    the_directory_is_not_flushed,
    answered_before_the_flush,
    a_flush_that_failed_is_tried_again,
    a_failed_append_stays,
    a_short_write_counts,
    cut_at_the_first_bad_record,
    a_torn_tail_is_damage,
    sums_are_not_checked,
    a_snapshot_is_renamed_before_its_flush,
    a_snapshot_is_named_before_its_mark,
    the_closed_segment_is_named_last,
    the_lock_is_dropped_early,
    nobody_looks_at_the_lock,
    a_lock_that_cannot_be_given_back_is_an_error,
    a_lock_that_cannot_be_given_back_is_kept,
    a_new_lock_file_is_a_new_lock,
    what_others_wrote_is_not_read,
    a_batch_run_ahead_is_believed_whatever_was_written,
    a_batch_run_over_one_that_failed_is_believed,
    a_batch_run_ahead_does_not_know_the_one_before,
    a_batch_run_beside_another_is_believed,
    what_others_wrote_is_taken_for_durable,
    a_missing_journal_is_an_empty_store,
)


def refund_after_a_refund(patch: pytest.MonkeyPatch) -> None:
    """A job paid back is paid back again."""
    refund = ledger.refund

    def again(tx: Transaction, client_id: str, *, job_id: str, reason: str, now: datetime) -> Reservation:
        known = tx.reservations.get(ledger.reservation_id(client_id, job_id))
        if known is not None and known.state is ReservationState.REFUNDED:
            tx.reservations.put(replace(known, state=ReservationState.CAPTURED))
        return refund(tx, client_id, job_id=job_id, reason=reason, now=now)

    patch.setattr(ledger, "refund", again)


def refund_before_the_capture(patch: pytest.MonkeyPatch) -> None:
    """A job that is only reserved is paid back as if it had been charged."""
    refund = ledger.refund

    def early(tx: Transaction, client_id: str, *, job_id: str, reason: str, now: datetime) -> Reservation:
        known = tx.reservations.get(ledger.reservation_id(client_id, job_id))
        if known is not None and known.state is ReservationState.PENDING:
            ledger.capture(tx, client_id, job_id=job_id, now=now)
        return refund(tx, client_id, job_id=job_id, reason=reason, now=now)

    patch.setattr(ledger, "refund", early)


def expiry_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A reservation lives for ever, and its credits are never given back."""
    patch.setattr(turning, "_end_reservations", lambda tx, account, now: account)


MONEY: tuple[Plant, ...] = (*MUTANTS, refund_after_a_refund, refund_before_the_capture, expiry_is_forgotten)
