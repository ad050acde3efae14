"""Frozen records, made quickly.

A frozen dataclass sets its fields through `object.__setattr__`, one call for each; a job makes some sixty. Here
the fields are set on a plain class of the same layout, and the new record gets its own class at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")

_MADE: Any = object()


def quickly_made(cls: type[T]) -> type[T]:
    """Give a frozen dataclass with slots, and nothing done after its fields are set, a quick `__init__`."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    twin = type(cls.__name__, (object,), {"__slots__": tuple(field.name for field in fields)})
    names: dict[str, Any] = {"cls": cls, "twin": twin, "thaw": object.__setattr__, "MADE": _MADE}
    parameters, lines = [], []
    for field in fields:
        name = field.name
        if field.default_factory is not dataclasses.MISSING:
            names[f"make_{name}"] = field.default_factory
            parameters.append(f"{name}=MADE")
            lines.append(f"    self.{name} = make_{name}() if {name} is MADE else {name}")
            continue
        if field.default is not dataclasses.MISSING:
            names[f"default_{name}"] = field.default
        parameters.append(name if field.default is dataclasses.MISSING else f"{name}=default_{name}")
        lines.append(f"    self.{name} = {name}")
    star = "*, " if fields[0].kw_only else ""
    source = [
        f"def __init__(self, {star}{', '.join(parameters)}):",
        "    thaw(self, '__class__', twin)",
        *lines,
        "    self.__class__ = cls",
    ]
    exec("\n".join(source), names)  # noqa: S102 - made of our own field names only
    made = names["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    made.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = made  # type: ignore[method-assign]
    return cls
