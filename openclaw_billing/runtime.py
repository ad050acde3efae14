"""The runtime: one gateway's store, clock, peppers and admin token, opened at first use."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import logging
import secrets
import threading
import weakref
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from openclaw_billing import seed_file
from openclaw_billing.clock import Clock, SystemClock
from openclaw_billing.contracts import (
    NoStripeObserver,
    Operation,
    Store,
    StoreObserver,
    StripeObserver,
    Transaction,
    View,
)
from openclaw_billing.errors import BadSettings, JobRefused, StorageUnavailable
from openclaw_billing.gate import Gate
from openclaw_billing.keys import Peppers, key_of, new_checked_key_text, new_key_text
from openclaw_billing.limits.made import Limits, make_limits
from openclaw_billing.payments import make_account
from openclaw_billing.records import Fact, Key, KeyState
from openclaw_billing.settings import Settings, load_settings
from openclaw_billing.stores.files import Directory
from openclaw_billing.stores.json_create import BACKUP
from openclaw_billing.stores.json_store import JsonStore
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.values import WEAK_TOKEN, is_usable_token

if TYPE_CHECKING:
    from openclaw_billing.payments.account import StripeAccount

T = TypeVar("T")

log = logging.getLogger(__package__)

PEPPER_FACT = "pepper:"
_OPEN = "Others may read or write {}: chmod 600 it."


class Runtime:
    """What the door and the edges work with. Making one opens nothing."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        observer: StoreObserver | None = None,
        stripe: StripeAccount | None = None,
        stripe_observer: StripeObserver | None = None,
        makes_token: bool = True,
    ) -> None:
        """`makes_token`: whether an admin token is made where there is none, for whoever starts this to see."""
        self._settings = settings
        self._makes_token = makes_token
        self._given_store = store
        self._store: Store | None = None
        self._observer = observer
        self.stripe_observer: StripeObserver = stripe_observer or NoStripeObserver()
        self._gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Gate] = weakref.WeakKeyDictionary()
        self._last_gate: Gate | None = None
        self._opening = threading.Lock()
        self._admin_digests: tuple[bytes, ...] = ()
        self._peppers: Peppers | None = None
        self._limits: Limits | None = None
        self.clock: Clock = clock or SystemClock()
        self.log = log
        self._stripe = stripe
        self.wake_worker: Callable[[], None] = lambda: None
        """Called when something was stored for the worker; without one in this process, nothing happens."""
        self.new_admin_token: str | None = None
        """The admin token, if this opening made it: to be shown once to whoever started the gateway."""
        self.admin_refusal = ""
        """Why the admin token in the data directory is not taken."""

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = load_settings()
        return self._settings

    @property
    def store(self) -> Store:
        return self._store or self.open()

    @property
    def stripe(self) -> StripeAccount | None:
        """The Stripe account of the settings' key; None in mock mode.

        Raises:
            BadSettings: there is a key, but the SDK is not installed.
        """
        if self._stripe is None:
            self._stripe = make_account(self.settings, observer=self.stripe_observer)
        return self._stripe

    @property
    def view(self) -> View:
        """The last durable state."""
        return (self._store or self.open()).view

    @property
    def peppers(self) -> Peppers:
        if self._peppers is None:
            self.open()
        assert self._peppers is not None
        return self._peppers

    @property
    def limits(self) -> Limits:
        """Who counts calls, and how often who may call."""
        if self._limits is None:
            self.open()
        assert self._limits is not None
        return self._limits

    def now(self) -> datetime:
        return self.clock.now()

    def open(self) -> Store:
        """Open the store, if it is not open.

        Raises:
            StartupError: serving would be wrong; the text says why in one sentence.
        """
        with self._opening:
            if self._store is None:
                self._limits = make_limits(self.settings, self.clock)
                self._store = self._open_everything()
            return self._store

    def warm(self) -> None:
        """Open, to serve for long."""
        self.open()
        # What was loaded stays: a collector that walks it again and again would hold up every request.
        gc.collect()
        gc.freeze()

    def reconfigure(
        self,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        stripe: StripeAccount | None = None,
    ) -> None:
        """Close, and open at next use with these: for tests, and a host that decides late."""
        self.close()
        self._settings, self._given_store, self._stripe = settings, store, stripe
        self.clock = clock or SystemClock()
        self.new_admin_token = None

    def close(self) -> None:
        """Finish what waits and let go of the store; the next use opens it again."""
        with self._opening:
            store, self._store = self._store, None
            limits, self._limits = self._limits, None
            if limits is not None:
                limits.close()
            if store is not None:
                store.close()

    async def aclose(self) -> None:
        """The same for an application that ends: connections of this event loop are closed too."""
        if self._limits is not None:
            await self._limits.aclose()
        await asyncio.to_thread(self.close)

    async def write(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run `operation(tx, *args, **kwargs, now=this moment)`; its answer, once it is durable."""
        kwargs["now"] = self.clock.now()
        try:
            return await self._gate().write(_call(operation, args, kwargs), operation.__name__)
        except JobRefused as error:
            raise self.refusal(error) from None

    def write_and_wait(self, operation: Callable[..., T], *args: object, **kwargs: object) -> T:
        """The same for a caller that is no coroutine: it waits for the disk."""
        kwargs["now"] = self.clock.now()
        try:
            return self.store.run(_call(operation, args, kwargs), operation.__name__)
        except JobRefused as error:
            raise self.refusal(error) from None

    def refusal(self, error: JobRefused) -> JobRefused:
        """The refusal as the settings want it: its status, and where to buy more."""
        if not error.payable:
            return error
        error.status_code = self.settings.quota_status
        if self.settings.upgrade_url is not None:
            error.facts["upgrade_url"] = self.settings.upgrade_url
        return error

    def new_key(
        self, client_id: str, *, name: str = "", expires_at: datetime | None = None
    ) -> tuple[str, Key]:
        """Key text and the record of it, which is stored nowhere yet."""
        checked = self.settings.key_format == "checksum"
        key_text = new_checked_key_text() if checked else new_key_text()
        key = key_of(
            key_text,
            self.peppers,
            key_id=f"key_{secrets.token_hex(8)}",
            client_id=client_id,
            name=name,
            expires_at=expires_at,
            now=self.now(),
        )
        return key_text, key

    async def read(self, reading: Callable[[], T]) -> T:
        """A reading that may walk a whole table or the history, off the event loop."""
        return await asyncio.to_thread(reading)

    def is_admin(self, token: str) -> bool:
        """Whether the text is an admin token. Every token is compared, so time tells nothing."""
        if self._store is None:
            self.open()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        matched = False
        for known in self._admin_digests:
            matched |= hmac.compare_digest(known, digest)
        return matched

    @property
    def admin_enabled(self) -> bool:
        if self._store is None:
            self.open()
        return bool(self._admin_digests)

    def _gate(self) -> Gate:
        loop = asyncio.get_running_loop()
        last = self._last_gate
        if last is not None and last.is_of(loop) and last.store is self._store:
            return last
        gate = self._gates.get(loop)
        if gate is None or gate.store is not self._store:
            gate = self._gates[loop] = Gate(loop, self.store)
        self._last_gate = gate
        return gate

    def _open_everything(self) -> Store:
        directory = Directory(self.settings.data_dir, allow_network=True)
        try:
            peppers = self._read_peppers(directory)
            self._peppers = Peppers([(pepper_id(text), text.encode()) for text in peppers])
            store = self._given_store or self._make_store()
            store.open()
            if self._given_store is None:
                _warn_of_key_text(self.settings.data_dir)
            try:
                _check_peppers(store, {f"{PEPPER_FACT}{pepper_id(text)}" for text in peppers})
                self._open_admin_token(directory)
            except BaseException:
                store.close()
                raise
            return store
        finally:
            directory.close()

    def _make_store(self) -> Store:
        settings = self.settings
        if settings.database_url is not None:
            url, away = settings.database_url.get_secret_value(), settings.keys_seconds_without_database
            return PostgresStore(url, observer=self._observer, keys_seconds_away=away)
        chain_key = settings.chain_key
        return JsonStore(
            settings.data_dir,
            chain_key=None if chain_key is None else chain_key.get_secret_value().encode(),
            lock_seconds_max=settings.lock_seconds_max,
            allow_network=settings.allow_nfs,
            observer=self._observer,
            migrate=self._migration,
        )

    def _migration(self, data: bytes) -> Operation[object]:
        assert self._peppers is not None
        return partial(seed_file.take_over, data=data, peppers=self._peppers, now=self.now())

    def _read_peppers(self, directory: Directory) -> list[str]:
        given = self.settings.key_pepper
        if given is not None:
            newest_first = [text.strip() for text in given.get_secret_value().split(",") if text.strip()]
            return newest_first[::-1]
        # One that is made here would be no use to the other machines of a database.
        pepper, _ = self._secret(directory, "pepper", make=self.settings.database_url is None)
        if pepper is None:
            raise BadSettings(
                "OPENCLAW_DATABASE_URL needs the pepper of its keys, the same on every machine: set "
                "OPENCLAW_KEY_PEPPER, or carry the file `pepper` to the data directory"
            )
        if not directory.is_private("pepper"):
            raise BadSettings(_OPEN.format(directory.path / "pepper"))
        return [pepper]

    def _open_admin_token(self, directory: Directory) -> None:
        state = self.settings.admin_token_state
        self._admin_digests, self.admin_refusal = (), ""
        if state == "refused":
            return
        if state == "usable":
            assert self.settings.admin_token is not None
            text = self.settings.admin_token.get_secret_value()
        else:
            kept, made = self._secret(directory, "admin_token", make=self._makes_token)
            if kept is None:
                return
            text = kept
            self.new_admin_token = text if made else self.new_admin_token
            self.admin_refusal = _refusal_of(directory, "admin_token", text)
            if self.admin_refusal:
                log.warning("%s", self.admin_refusal)
                return
        self._admin_digests = (hashlib.sha256(text.encode()).digest(),)

    def _secret(self, directory: Directory, name: str, *, make: bool) -> tuple[str | None, bool]:
        """The secret in the data directory, made there now where it may be; whether it was."""
        if make:
            directory.open()
            return directory.secret(name, secrets.token_hex(32))
        if not self.settings.data_dir.exists():
            return None, False
        directory.open()
        return directory.kept_secret(name), False


def _refusal_of(directory: Directory, name: str, token: str) -> str:
    path = directory.path / name
    if not is_usable_token(token):
        return f"{path} {WEAK_TOKEN}"
    return "" if directory.is_private(name) else f"{_OPEN.format(path)} The admin API is disabled until then."


def pepper_id(pepper: str) -> str:
    """A name for a pepper that does not give it away."""
    return hashlib.sha256(b"openclaw pepper id\0" + pepper.encode()).hexdigest()[:8]


def _call(operation: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation[T]:
    return cast("Operation[T]", lambda tx: operation(tx, *args, **kwargs))


def _warn_of_key_text(data_dir: Path) -> None:
    original = data_dir / BACKUP
    if original.exists():
        log.warning("%s holds clients' key text: remove it once they are seen to work", original)


def _check_peppers(store: Store, known: set[str]) -> None:
    """Refuse to serve without a pepper that keys need; one that no key needs any more is forgotten."""
    noted = {fact.name for fact in store.view.facts if fact.name.startswith(PEPPER_FACT)}
    lost = noted - known
    if lost:
        lacking = sum(
            f"{PEPPER_FACT}{key.pepper_id}" in lost and key.state is not KeyState.REVOKED
            for key in store.view.keys
        )
        if lacking:
            raise BadSettings(
                f"Keys in the store ({lacking}) need a pepper that is not here: restore the file `pepper` "
                "or add the older pepper to OPENCLAW_KEY_PEPPER"
            )
    if noted != known:
        remember = partial(_remember, names=sorted(known - noted), gone=sorted(lost))
        try:
            store.run(remember, "remember_peppers")
        except StorageUnavailable as error:
            reason = store.health().reason or str(error.detail)
            raise BadSettings(f"The store cannot note which pepper is in use: {reason}") from error


def _remember(tx: Transaction, *, names: list[str], gone: list[str]) -> None:
    for name in names:
        tx.facts.put(Fact(name=name, value="in use"))
    for name in gone:
        tx.facts.delete(name)
