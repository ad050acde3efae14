"""The guard of a gateway's own paths: pure ASGI, for HTTP and WebSocket, whole paths, deny by default."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from openclaw_billing.errors import AdminDisabled, BillingError, TokenRejected
from openclaw_billing.metrics import REFUSALS
from openclaw_billing.runtime import Runtime
from openclaw_billing.web.ending import Ending
from openclaw_billing.web.limits import Attempt
from openclaw_billing.web.paths import OwnPaths, path_of
from openclaw_billing.web.route import turned_away

POLICY_VIOLATION = 1008
TOKEN_BYTES_MAX = 512


class Guard:
    """Lets pass what is public, what guards itself, and who has an admin token.

    `public` names whole paths; there are no prefixes, because a prefix opens every path beside the one meant.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        runtime: Runtime,
        app_of_routes: Starlette,
        public: Iterable[str] = (),
        ending: Ending | None = None,
    ) -> None:
        self._app = app
        self._runtime = runtime
        self._routes_of = app_of_routes
        self._public = frozenset(public)
        self._own: OwnPaths | None = None
        self._routes = 0
        self._ending = ending or Ending()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            if self._ending.told:
                send = self._ending.closing(send)
            path = path_of(scope)
            own = self._own
            if own is None or len(self._routes_of.router.routes) != self._routes:
                own = self._look()
            # Every job comes by here: the application would only look the same route up again.
            direct = own.direct(scope["method"], path)
            if direct is not None and direct.is_plain(scope):
                scope["app"] = self._routes_of
                await direct.straight(scope, receive, send)
                return
            if path in self._public or own.holds(path):
                await self._app(scope, receive, send)
                return
        try:
            admitted = self._is_admin(scope)
        except BillingError as error:
            await _refuse(error, scope, receive, send)
            return
        if admitted:
            await self._app(scope, receive, send)
            return
        REFUSALS["invalid_token"].inc()
        await _refuse(TokenRejected(), scope, receive, send)

    def _look(self) -> OwnPaths:
        # Not before the first request, and again whenever the host has added a route.
        self._routes = len(self._routes_of.router.routes)
        self._own = OwnPaths(self._routes_of)
        return self._own

    def _is_admin(self, scope: Scope) -> bool:
        if not self._runtime.admin_enabled:
            raise AdminDisabled
        tokens = [value for name, value in scope["headers"] if name == b"x-auth-token"]
        if len(tokens) != 1 or not 0 < len(tokens[0]) <= TOKEN_BYTES_MAX:
            return False
        token = tokens[0].decode("latin-1")
        attempt = Attempt(self._runtime, scope, token)
        if not self._runtime.is_admin(token):
            attempt.failed()
            return False
        attempt.passed()
        return True


async def _refuse(error: BillingError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": str(error.detail)})
        return
    await turned_away(error, scope)(scope, receive, send)
