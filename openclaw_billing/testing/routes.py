"""Which function answers which path, and which parameters it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openclaw_billing.testing.problems import ApiError, unknown_parameter
from openclaw_billing.testing.world import Call, Obj, World

Handler = Callable[[World, Call], Obj]

LISTED = frozenset({"limit", "starting_after", "ending_before", "created"})


@dataclass(frozen=True)
class Route:
    """One endpoint."""

    method: str
    pattern: re.Pattern[str]
    takes: frozenset[str]
    handler: Handler

    def check(self, params: dict[str, Any]) -> None:
        """Refuse the first parameter this endpoint does not take."""
        for name in params:
            if name not in self.takes:
                raise unknown_parameter(name)


class Routes:
    """A table of endpoints; modules fill it by decorating their functions."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def get(self, path: str, takes: str = "") -> Callable[[Handler], Handler]:
        """Register a reader of one object."""
        return self._add("GET", path, frozenset(takes.split()))

    def list(self, path: str, takes: str = "") -> Callable[[Handler], Handler]:
        """Register a reader of pages."""
        return self._add("GET", path, frozenset(takes.split()) | LISTED)

    def post(self, path: str, takes: str = "") -> Callable[[Handler], Handler]:
        """Register a writer."""
        return self._add("POST", path, frozenset(takes.split()))

    def delete(self, path: str, takes: str = "") -> Callable[[Handler], Handler]:
        """Register a remover."""
        return self._add("DELETE", path, frozenset(takes.split()))

    def include(self, other: Routes) -> None:
        """Take over another table's endpoints."""
        self._routes += other._routes

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]:
        """The endpoint and the ids in the path; literal paths win over patterns."""
        matches = [
            (route, found.groups())
            for route in self._routes
            if route.method == method and (found := route.pattern.fullmatch(path))
        ]
        if not matches:
            raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")
        return min(matches, key=lambda match: len(match[1]))

    def _add(self, method: str, path: str, takes: frozenset[str]) -> Callable[[Handler], Handler]:
        pattern = re.compile(re.sub(r"\{\w+\}", "([^/]+)", path))

        def register(handler: Handler) -> Handler:
            self._routes.append(Route(method, pattern, takes | {"expand"}, handler))
            return handler

        return register
