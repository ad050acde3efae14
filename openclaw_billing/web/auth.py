"""Who is calling: the two header schemes, each a dependency that authenticates and shows in OpenAPI."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Request, Response
from fastapi.security import APIKeyHeader

from openclaw_billing import accounts, keyring
from openclaw_billing.audit import Actor
from openclaw_billing.contracts import View
from openclaw_billing.errors import AdminDisabled, BadRequest, BillingError, KeyRejected, TokenRejected
from openclaw_billing.keys import is_key_shape
from openclaw_billing.metrics import REFUSALS
from openclaw_billing.records import Client, Key
from openclaw_billing.runtime import Runtime
from openclaw_billing.stores.postgres import PostgresStore
from openclaw_billing.web.far import far_store
from openclaw_billing.web.limits import ADDRESS_FIELD, CLIENT_FIELDS, Attempt, ClientGate
from openclaw_billing.web.reasons import Reasons
from openclaw_billing.web.route import FIELDS, LimitedRequest
from openclaw_billing.web.standing import StandingField

HEADER_BYTES_MAX = 512
# FastAPI hands in the response that it will send; who calls a dependency by hand has none.
_NONE: Any = None

_reasons = Reasons()


def header(request: Request, name: bytes) -> str | None:
    """The header's value; a header given twice is refused, because two readers would pick differently."""
    found: bytes | None = None
    fields: dict[bytes, bytes] | None = request.scope.get(FIELDS)
    if fields is not None:
        found = fields.get(name)
    else:
        for key, value in request.scope["headers"]:
            if key == name:
                if found is not None:
                    raise BadRequest(f"The header {name.decode()} is given twice", code="doubled_header")
                found = value
    if found is None or len(found) > HEADER_BYTES_MAX:
        return None if found is None else ""
    return found.decode("latin-1")


def key_of(runtime: Runtime, key_text: str, view: View | None = None) -> tuple[Client, Key] | None:
    """The client and the key that this text is, if both are active now, or were in that view."""
    if not is_key_shape(key_text):
        return None
    view, now = view or runtime.view, runtime.now()
    key = keyring.key_with(view, runtime.peppers.digests(key_text))
    if key is None:
        return None
    client = keyring.owner_of(view, key, now)
    if client is None:
        _reasons.tell(key, keyring.key_outcome(view, key, now), now)
        return None
    return client, key


class ClientKey(APIKeyHeader):
    """`X-Client-Key`, required: answers the client, or refuses with one 401 for every reason."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(
            name="X-Client-Key", scheme_name="ClientKey", description="A client's API key", auto_error=False
        )
        self._runtime = runtime
        self._gate = ClientGate(runtime)
        self._standing = StandingField(runtime)
        self._rehashing: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, request: Request, response: Response = _NONE) -> Client:  # type: ignore[override]
        client = await self.admit(request, response)
        if client is None:
            REFUSALS["invalid_key"].inc()
            raise KeyRejected
        return client

    async def admit(self, request: Request, response: Response = _NONE) -> Client | None:
        """The client, if this call does not come too soon; None where the header is absent.

        Raises:
            TooManyRequests, KeyRejected
        """
        view = self._runtime.view
        far = far_store(self._runtime)
        client = self._identify(request, view) if far is None else await self._identify_far(request, far)
        if client is not None:
            request.scope[CLIENT_FIELDS] = [self._standing.of(client, view)]
            await self._gate.admit(request, client, view)
            # Our own routes tell it on every answer, whatever makes it.
            if response is not None and not isinstance(request, LimitedRequest):
                response.raw_headers.extend(request.scope[CLIENT_FIELDS])
        return client

    def _identify(self, request: Request, view: View) -> Client | None:
        """The client; None where the header is absent.

        Raises:
            KeyRejected: there is a key, and it is not good: never a fall-back to being nobody.
            TooManyRequests: too many wrong ones came from there.
        """
        key_text = _key_text(request)
        if key_text is None:
            return None
        attempt = Attempt(self._runtime, request.scope, key_text)
        return self._settled(attempt, key_text, key_of(self._runtime, key_text, view))

    async def _identify_far(self, request: Request, store: PostgresStore) -> Client | None:
        """The same from a database, which nobody waits for in the event loop."""
        key_text = _key_text(request)
        if key_text is None:
            return None
        attempt = Attempt(self._runtime, request.scope, key_text)
        known = not is_key_shape(key_text) or store.view.at_hand(self._runtime.peppers.digests(key_text))
        found = self._found(key_text) if known else await self._runtime.read(partial(self._found, key_text))
        return self._settled(attempt, key_text, found)

    def _settled(self, attempt: Attempt, key_text: str, found: tuple[Client, Key] | None) -> Client:
        if found is None:
            attempt.failed()
            REFUSALS["invalid_key"].inc()
            raise KeyRejected
        attempt.passed()
        client, key = found
        if key.pepper_id != self._runtime.peppers.newest_id and key.key_id not in self._rehashing:
            self._rehashing[key.key_id] = asyncio.ensure_future(self._rehash(key_text, key))
        return client

    async def _rehash(self, key_text: str, key: Key) -> None:
        """Keep a key that was used under the newest pepper, so that the older one can be dropped some day."""
        peppers = self._runtime.peppers
        try:
            await self._runtime.write(
                accounts.rehash_key,
                key.client_id,
                key.key_id,
                digest=peppers.digest(key_text),
                pepper_id=peppers.newest_id,
                actor=Actor("gateway"),
            )
        except BillingError as error:
            self._runtime.log.warning("Key %s stays under an older pepper for now: %s", key.key_id, error)
        finally:
            del self._rehashing[key.key_id]

    def _found(self, key_text: str) -> tuple[Client, Key] | None:
        """The client and the key; what its answers say of the client is at hand from then on."""
        view = self._runtime.view
        found = key_of(self._runtime, key_text)
        if found is not None:
            self._standing.of(found[0], view)
            if self._runtime.limits.clients is not None:
                self._runtime.limits.rates.of(found[0], view)
        return found


def _key_text(request: Request) -> str | None:
    query: bytes = request.scope["query_string"]
    if query and b"oc_" in query:
        raise BadRequest("Send the key in the X-Client-Key header, never in the address", code="key_in_query")
    return header(request, b"x-client-key")


class OptionalClientKey(ClientKey):
    """`X-Client-Key`, if there is one."""

    async def __call__(self, request: Request, response: Response = _NONE) -> Client | None:  # type: ignore[override]
        return await self.admit(request, response)


class AdminToken(APIKeyHeader):
    """`X-Auth-Token`, required: answers who acts."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(
            name="X-Auth-Token", scheme_name="AdminToken", description="The admin token", auto_error=False
        )
        self._runtime = runtime

    async def __call__(self, request: Request) -> Actor:  # type: ignore[override]
        actor = self.identify(request)
        if actor is None:
            REFUSALS["invalid_token"].inc()
            raise TokenRejected
        return actor

    def identify(self, request: Request) -> Actor | None:
        """Who acts, if the request carries an admin token.

        Raises:
            AdminDisabled: no usable token is configured.
            TooManyRequests: too many wrong ones came from there.
        """
        if not self._runtime.admin_enabled:
            raise AdminDisabled
        token = header(request, b"x-auth-token")
        if token is None:
            token = self._from_query(request)
        if not token:
            return None
        attempt = Attempt(self._runtime, request.scope, token)
        if not self._runtime.is_admin(token):
            attempt.failed()
            return None
        attempt.passed()
        return actor_of(request, "admin")

    def _from_query(self, request: Request) -> str | None:
        query: bytes = request.scope["query_string"]
        if b"token=" not in query:
            return None
        if not self._runtime.settings.allow_query_token:
            raise BadRequest(
                "Send the token in the X-Auth-Token header, never in the address", code="key_in_query"
            )
        named = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        # Taken out: it is nobody's filter, and belongs in no link and no log.
        others = [(name, value) for name, value in named if name != "token"]
        request.scope["query_string"] = urlencode(others).encode()
        return next((value for name, value in named if name == "token"), None)


def actor_of(request: Request, name: str) -> Actor:
    """The actor for the audit log, with where they came from."""
    return Actor(
        name=name,
        address=request.scope.get(ADDRESS_FIELD),
        request_id=getattr(request.state, "request_id", None),
    )
