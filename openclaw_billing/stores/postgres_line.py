"""The line to PostgreSQL: connections that never wait for ever, and the watch over whether it is there.

While the database is away nobody but the watch tries to reach it, so that no caller waits for a timeout
that another has waited for already; it is back within a tenth of a second of its return.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from openclaw_billing.errors import BadSettings, StorageUnavailable
from openclaw_billing.stores.postgres_sql import sql
from openclaw_billing.stores.schema import MOVED

log = logging.getLogger(__name__)

CONNECT_SECONDS_MAX = 2
STATEMENT_SECONDS_MAX = 2.0
ANSWER_SECONDS_MAX = 2.5
"""A server that is stopped, or a network that drops everything, ends no statement: we hang up."""
STALLED_SECONDS_MAX = 5
"""A gateway that stands still within a transaction keeps others from its rows no longer than this."""
BY_INDEX = "-c enable_seqscan=off -c jit=off"
"""Every table is asked by an index, and a plan that was made while it was empty must not walk it for ever."""
PING_SECONDS = 0.4
AWAY_SECONDS = 0.1
READERS_MAX = 8
PIP = 'pip install "psycopg[binary,pool]>=3.2.10" "alembic>=1.16"'


@cache
def driver() -> Any:
    """The module psycopg, which only this store needs.

    Raises:
        BadSettings: it is not installed.
    """
    try:
        import psycopg
        import psycopg_pool  # noqa: F401 - asked for here, so that it is missed at the start
    except ImportError as error:
        raise BadSettings(f"OPENCLAW_DATABASE_URL needs psycopg: {PIP}") from error
    return psycopg


def connect(
    url: str, *, statement_seconds: float = STATEMENT_SECONDS_MAX, autocommit: bool = True, **options: Any
) -> Any:
    """A connection whose statements end within `statement_seconds`.

    Raises:
        psycopg.Error
    """
    arguments = arguments_of(url, statement_seconds)
    connection = _connection_class().connect(**arguments, autocommit=autocommit, **options)
    connection.seconds_max = statement_seconds + ANSWER_SECONDS_MAX - STATEMENT_SECONDS_MAX
    return connection


def arguments_of(url: str, statement_seconds: float = STATEMENT_SECONDS_MAX) -> dict[str, Any]:
    """What to connect with: the address, our limits, and times told in UTC."""
    arguments: dict[str, Any] = driver().conninfo.conninfo_to_dict(url)
    milliseconds = int(statement_seconds * 1000)
    ours = (
        f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c timezone=UTC"
        f" -c idle_in_transaction_session_timeout={STALLED_SECONDS_MAX * 1000} {BY_INDEX}"
    )
    arguments["options"] = f"{ours} {arguments.get('options', '')}"
    arguments.setdefault("connect_timeout", CONNECT_SECONDS_MAX)
    arguments.setdefault("application_name", "openclaw-billing")
    return arguments


def first_line(error: BaseException) -> str:
    """What the database said, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@cache
def _connection_class() -> Any:
    psycopg = driver()

    class Bounded(psycopg.Connection):  # type: ignore[misc, name-defined]
        """A connection that hangs up when no answer comes."""

        seconds_max = ANSWER_SECONDS_MAX

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs:
                return super().wait(gen, *args, **kwargs)
            poll = select.poll()
            deadline = time.monotonic() + self.seconds_max
            try:
                wanted = next(gen)
                fd = self.pgconn.socket
                while True:
                    poll.register(fd, _EVENTS[wanted])
                    seen = poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))
                    if not seen:
                        self.pgconn.finish()
                        raise unanswered()("no answer came in time")
                    wanted = gen.send(_ready(seen[0][1]))
            except StopIteration as end:
                return end.value

    return Bounded


@cache
def unanswered() -> Any:
    """The error of a connection on which no answer came."""

    class Unanswered(driver().OperationalError):  # type: ignore[misc]
        """We hung up on a server that said nothing."""

    return Unanswered


_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}


def _ready(events: int) -> int:
    # A socket that was closed is ready to be read: reading tells what happened.
    return (1 if events & ~select.POLLOUT else 0) | (2 if events & select.POLLOUT else 0)


class Line:
    """Every connection of one store: the writer's, the readers' pool and the watch's, which listens.

    `heard` is called with each notification, and with None when some may have been missed; `proved` with a
    moment until which none was missed. `moved` says where the records are now, once they are elsewhere.
    """

    def __init__(
        self, url: str, heard: Callable[[str | None], None], proved: Callable[[float], None]
    ) -> None:
        self.url = url
        self.channel = ""
        self.away = "the store is closed"
        self.moved = ""
        self._heard, self._proved = heard, proved
        self._writer: Any = None
        self._readers: Any = None
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None

    def open(self, channel: str) -> None:
        self.channel = channel
        self.away = ""
        self._readers = self._new_pool()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._keep_watch, name="openclaw-billing-watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        self.away = "the store is closed"
        self._ended.set()
        if self._watch is not None:
            self._watch.join(2 * ANSWER_SECONDS_MAX)
            self._watch = None
        self.drop_writer()
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.close()

    def writer(self) -> Any:
        """The writer's connection, made anew where it was lost.

        Raises:
            StorageUnavailable
        """
        if self.away:
            raise StorageUnavailable
        if self._writer is None or self._writer.closed:
            self._writer = self.reach()
        return self._writer

    def drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def reach(self) -> Any:
        """A new connection.

        Raises:
            StorageUnavailable: it cannot be made; from now on only the watch tries.
        """
        try:
            return connect(self.url)
        except driver().Error as error:
            self.lose(first_line(error))
            raise StorageUnavailable from error

    def read(self, select: str, values: Mapping[str, object]) -> list[Any]:
        """The rows of one SELECT, each a tuple.

        Raises:
            StorageUnavailable
        """
        psycopg = driver()
        for attempt in range(2):
            readers, connection = self._readers, None
            if self.away or readers is None:
                raise StorageUnavailable
            try:
                with readers.connection() as connection:
                    rows: list[Any] = connection.execute(select, values).fetchall()
                    return rows
            except unanswered() as error:
                # The next who ask shall not wait as long: the watch finds out whether it was this once.
                self.lose(first_line(error))
                raise StorageUnavailable from error
            except psycopg.Error as error:
                # A connection that was lost while it rested is no reason yet to refuse.
                if connection is None or not connection.closed or attempt:
                    raise StorageUnavailable from error
        raise AssertionError

    def lose(self, reason: str) -> None:
        """From now on nobody waits for the database, and who waits already is refused; only the watch tries."""
        if self.away:
            return
        log.error("The database is away: %s", reason)
        self.away = reason
        if (readers := self._readers) is not None:
            readers.close(timeout=0)

    def _new_pool(self) -> Any:
        import psycopg_pool

        return psycopg_pool.ConnectionPool(
            kwargs={**arguments_of(self.url), "autocommit": True},
            connection_class=_connection_class(),
            min_size=1,
            max_size=READERS_MAX,
            timeout=STATEMENT_SECONDS_MAX,
            max_waiting=4 * READERS_MAX,
            name="openclaw-billing-readers",
            open=True,
        )

    # The watch

    def _keep_watch(self) -> None:
        connection: Any = None
        while not self._ended.is_set():
            try:
                if connection is None:
                    connection = connect(self.url)
                    connection.execute(f'LISTEN "{self.channel}"')
                    self._heard(None)
                self._ping(connection)
                self._listen(connection)
            except driver().Error as error:
                self.lose(first_line(error))
                if connection is not None:
                    connection.close()
                connection = None
                self._ended.wait(AWAY_SECONDS)
        if connection is not None:
            connection.close()

    def _ping(self, connection: Any) -> None:
        begun = time.monotonic()
        [standby, moved] = connection.execute(sql("standing"), {"moved": MOVED}).fetchone()
        self.moved = "" if moved is None else f"the store was moved to {moved}"
        # A commit is answered after its words were sent off: they come before the answer to what is asked later.
        self._hear(connection, 0.0)
        self._proved(begun)
        if standby:
            self.lose("the database is a standby, which only reads")
        elif self.away and not self._ended.is_set():
            # The pool would sit out its own back-off before it tries again.
            readers, self._readers = self._readers, self._new_pool()
            readers.close(timeout=0)
            self.away = ""
            log.warning("The database is back")

    def _listen(self, connection: Any) -> None:
        until = time.monotonic() + PING_SECONDS
        while time.monotonic() < until and not self._ended.is_set():
            self._hear(connection, AWAY_SECONDS)
            if self.away:
                return

    def _hear(self, connection: Any, seconds: float) -> None:
        for notice in connection.notifies(timeout=seconds):
            self._heard(notice.payload)
