"""Parameters as Stripe takes them: `a[0][b]=c`, every value text until somebody asks for a number."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from openclaw_billing.testing.problems import invalid, required

DEPTH_MAX = 16


def decode(text: str) -> dict[str, Any]:
    """Nested dicts and lists from a query or form body."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=False):
        _put(root, _path(name), value)
    return {name: _lists(value) for name, value in root.items()}


def _path(name: str) -> list[str]:
    head, bracket, rest = name.partition("[")
    steps = [head]
    if bracket:
        steps += rest.removesuffix("]").split("][")
    if len(steps) > DEPTH_MAX:
        raise invalid(head, "Parameters are nested too deeply.", "parameter_unknown")
    return steps


def _put(root: dict[str, Any], path: list[str], value: str) -> None:
    here = root
    for step in path[:-1]:
        below = here.setdefault(step or str(len(here)), {})
        if not isinstance(below, dict):
            raise invalid(path[0], f"Invalid {path[0]}: it is given both as a value and as a hash.")
        here = below
    here[path[-1] or str(len(here))] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    below = {name: _lists(inner) for name, inner in value.items()}
    if below and all(name.isdigit() for name in below):
        return [below[name] for name in sorted(below, key=int)]
    return below


class Form(dict[str, Any]):
    """Decoded parameters, read with the type the reader expects."""

    def text(self, name: str) -> str | None:
        """The text, or None when it is absent or empty."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(name, f"Invalid string: {name}", "parameter_invalid_string_empty")
        return value or None

    def needed(self, name: str) -> str:
        """The text, refusing its absence."""
        value = self.text(name)
        if value is None:
            raise required(name)
        return value

    def number(self, name: str) -> int | None:
        """The whole number, or None."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError as error:
            raise invalid(name, f"Invalid integer: {value}", "parameter_invalid_integer") from error

    def flag(self, name: str, default: bool = False) -> bool:
        """The boolean, or the default."""
        value = self.text(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise invalid(name, f"Invalid boolean: {value}", "parameter_invalid_boolean")
        return value == "true"

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a closed list of words."""
        value = self.text(name) or default
        if not value:
            raise required(name)
        if value not in allowed:
            words = ", ".join(allowed)
            raise invalid(name, f"Invalid {name}: must be one of {words}", "parameter_invalid_string_empty")
        return value

    def form(self, name: str) -> Form:
        """The hash below, empty when absent."""
        value = self.get(name)
        if value is None or value == "":
            return Form()
        if not isinstance(value, dict):
            raise invalid(name, "Invalid object", "parameter_invalid_object")
        return Form(value)

    def forms(self, name: str) -> list[Form]:
        """The hashes of the list below, empty when absent."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise invalid(name, "Invalid array", "parameter_invalid_array")
        return [Form(one) for one in value]

    def texts(self, name: str) -> list[str]:
        """The texts of the list below, empty when absent."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise invalid(name, "Invalid array", "parameter_invalid_array")
        return list(value)


def merged_metadata(old: dict[str, str], form: Form) -> dict[str, str]:
    """Metadata after an update: keys are merged, an empty value removes one, an empty hash all of them."""
    if form.get("metadata") == "":
        return {}
    merged = {**old, **form.form("metadata")}
    return {name: value for name, value in merged.items() if value != ""}
