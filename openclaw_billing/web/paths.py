"""Paths: which routes an application has, and which paths are wholly ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastapi.routing
from starlette.applications import Starlette
from starlette.routing import Mount, compile_path
from starlette.types import Scope

from openclaw_billing.web.direct import DirectRoute
from openclaw_billing.web.route import BillingRoute


@dataclass(frozen=True, slots=True)
class Reached:
    """One route with the full path it is reached by. A mount is reached by every path under it."""

    path: str
    methods: frozenset[str]
    route: Any

    @property
    def guards_itself(self) -> bool:
        return isinstance(self.route, BillingRoute)

    @property
    def pattern(self) -> re.Pattern[str]:
        return compile_path(f"{self.path}/{{rest:path}}" if isinstance(self.route, Mount) else self.path)[0]


def routes_of(app: Starlette) -> Iterator[Reached]:
    """Every route, whether included routers form a list (FastAPI before 0.137) or a tree."""
    contexts = getattr(fastapi.routing, "iter_route_contexts", None)
    if contexts is None:
        for route in app.routes:
            path = getattr(route, "path", None) or "/{rest:path}"
            yield Reached(path, frozenset(getattr(route, "methods", None) or ()), route)
        return
    for context in contexts(app.routes):
        # A route without a path of its own, such as one by host name, may answer every path.
        yield Reached(
            context.path or "/{rest:path}", frozenset(context.methods or ()), context.original_route
        )


class OwnPaths:
    """The paths of an application that only routes of ours can answer, all of which guard themselves."""

    def __init__(self, app: Starlette) -> None:
        reached = list(routes_of(app))
        ours = [each for each in reached if each.guards_itself]
        others = [each.pattern for each in reached if not each.guards_itself]
        self._direct: dict[tuple[str, str], DirectRoute] = {
            (method, each.path): each.route
            for each in ours
            for method in each.methods
            if isinstance(each.route, DirectRoute) and not any(other.match(each.path) for other in others)
        }
        self._exact = frozenset(each.path for each in ours if "{" not in each.path)
        self._patterns = tuple(each.pattern for each in ours if "{" in each.path)
        self._others = tuple(others)

    def direct(self, method: str, path: str) -> DirectRoute | None:
        """The direct route that will answer, so that the way to it can be cut short."""
        return self._direct.get((method, path))

    def holds(self, path: str) -> bool:
        """Whether the path is one of them. A path that a route of the host matches too is not."""
        if path not in self._exact and not any(pattern.match(path) for pattern in self._patterns):
            return False
        return not any(pattern.match(path) for pattern in self._others)


def path_of(scope: Scope) -> str:
    """The path as routes see it: without the prefix that the server was told to strip."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and (path + "/").startswith(root + "/") else path
