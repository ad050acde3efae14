"""Logs: one line a fact, control characters escaped, secrets masked."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

from openclaw_billing.settings import Settings

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
MASK = "[masked]"
GATHER_SECONDS = 0.02
GATHERED_MAX = 1000
NAME = "openclaw_billing"
SERVER = "uvicorn.error"
REQUESTS = "uvicorn.access"

_SECRETS = re.compile(
    r"\boc_(?:live|test|admin)_[0-9A-Za-z]{9,}"
    r"|\b(?:sk|rk)_(?:live|test)_\w+"
    r"|\bwhsec_\w+"
    r"|(?<=token=)[^&\s\"']+"
    r"|(?<=code=)[^&\s\"']+"
)
_MARKS = ("oc_", "sk_", "rk_", "whsec_", "token=", "code=")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def masked(text: str) -> str:
    """The text with whatever looks like a secret of ours or of Stripe's taken out."""
    # Nearly every line is innocent, and asking for the marks is much cheaper than the search.
    return _SECRETS.sub(MASK, text) if any(mark in text for mark in _MARKS) else text


def escaped(text: str) -> str:
    """The text on one line: controls as `\\n` and the like, so that no value can forge a line."""
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class Line(logging.Formatter):
    """The guide's format."""

    def __init__(self) -> None:
        super().__init__(FORMAT, DATE_FORMAT)
        self._second, self._shown = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(masked(super().format(record)))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """As the standard library does, once a second."""
        second = int(record.created)
        if second != self._second:
            self._second, self._shown = second, super().formatTime(record, datefmt)
        return self._shown

    def format_all(self, record: Facts) -> list[str]:
        """The lines of one moment, whose beginning is the same for all."""
        record.message, record.asctime = "", self.formatTime(record, self.datefmt)
        start = self.formatMessage(record)
        whole = "".join(record.facts)
        if whole.isprintable() and not any(mark in whole for mark in _MARKS):
            return [start + fact for fact in record.facts]
        return [escaped(masked(start + fact)) for fact in record.facts]


class JsonLine(logging.Formatter):
    """The same facts as one JSON object a line, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        fact = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "logger": record.name,
            "level": record.levelname,
            "message": masked(record.getMessage()),
        }
        if record.exc_info:
            fact["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps(fact)

    def format_all(self, record: Facts) -> list[str]:
        """The lines of one moment."""
        lines = []
        for fact in record.facts:
            record.msg = fact
            lines.append(self.format(record))
        return lines


class Facts(logging.LogRecord):
    """Many facts of one kind and moment, each a line of its own: a record for each would cost more than the line."""

    def __init__(self, name: str, level: int, facts: list[str]) -> None:
        super().__init__(name, level, "", 0, "", None, None)
        self.facts = facts


def tell(logger: logging.Logger, facts: list[str]) -> None:
    """`logger.info` for each of them, but without the walk up the stack for the caller's name.

    Where our own handler alone writes them, they go there together.
    """
    if not facts or not logger.isEnabledFor(logging.INFO):
        return
    handlers = logger.handlers
    if not logger.propagate and len(handlers) == 1 and isinstance(handlers[0], Gathering):
        logger.handle(Facts(logger.name, logging.INFO, facts))
        return
    for fact in facts:
        logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, fact, (), None))


class Gathering(logging.StreamHandler[TextIO]):
    """Writes the lines of a moment at once, from a thread of its own: nobody waits for the terminal.

    A warning or worse is written before the call returns, with all that was gathered before it; so is what
    the server says of itself, because its last line is said just before a signal ends the process.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: deque[logging.LogRecord] = deque()
        self._come = threading.Event()
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget_thread)

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.levelno >= logging.WARNING or record.name == SERVER or len(self._waiting) >= GATHERED_MAX:
            self.flush()
        elif not self._come.is_set():
            self._come.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="openclaw-billing-log", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines: list[str] = []
            while self._waiting:
                record = self._waiting.popleft()
                if isinstance(record, Facts) and isinstance(self.formatter, Line | JsonLine):
                    lines += self.formatter.format_all(record)
                else:
                    lines.append(self.format(record))
            if lines and self.stream is not None:
                self.stream.write(self.terminator.join([*lines, ""]))
                self.stream.flush()

    def close(self) -> None:
        self.flush()
        super().close()

    def _write(self) -> None:
        while self._come.wait():
            time.sleep(GATHER_SECONDS)
            self._come.clear()
            self.flush()

    def _forget_thread(self) -> None:
        self._thread = None
        self._come = threading.Event()


class Redactor(logging.Filter):
    """Masks secrets in the server's log of requests.

    What stands behind the question mark of an address goes as a whole: a secret sent there by mistake may
    have any name and any spelling.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_address(each) if isinstance(each, str) else each for each in record.args)
        return True


def _address(text: str) -> str:
    path, mark, _ = text.partition("?")
    return f"{masked(path)}?{MASK}" if mark else masked(path)


def configure(settings: Settings, *, gateway: bool = False) -> None:
    """Write the module's log to stderr; for a gateway, the server's too, in the same form."""
    handler = Gathering(sys.stderr)
    atexit.register(handler.flush)
    handler.setFormatter(JsonLine() if settings.log_format == "json" else Line())
    names = (NAME, "uvicorn", REQUESTS) if gateway else (NAME,)
    for name in names:
        logger = logging.getLogger(name)
        if name == REQUESTS and not logger.propagate and not logger.handlers:
            # So the server leaves it that was told to keep no log of requests; a worker finds it like this.
            continue
        logger.handlers[:] = [handler]
        logger.setLevel(settings.log_level)
        logger.propagate = False
    if gateway:
        logging.getLogger(REQUESTS).addFilter(Redactor())
