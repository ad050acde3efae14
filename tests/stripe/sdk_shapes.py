"""What the installed Stripe SDK's classes say about an object that was answered, read from their source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from tests.stripe.sdk_params import choices_of, closes, imported_from, literals, sdk_folder, tree

SCALARS: dict[str, Any] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    # Stripe writes decimals as text, and the SDK makes a Decimal of it.
    "Decimal": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "Any": lambda value: True,
}


def check_shape(obj: Any, where: str = "") -> list[str]:
    """What is wrong with an object and every object inside it: unknown, missing and mistyped fields."""
    if obj["object"] == "list":
        return [problem for one in obj["data"] for problem in check_shape(one, where)]
    place = classes().get(obj["object"])
    if place is None:
        return [f"{where or '?'}: no class of the SDK is called {obj['object']!r}"]
    if obj.get("deleted"):
        return [] if set(obj) == {"id", "object", "deleted"} else [f"{where}: a tombstone with {sorted(obj)}"]
    path, name = place
    node = next(one for one in tree(path).body if isinstance(one, ast.ClassDef) and one.name == name)
    return _check_class(path, (node,), obj, where or obj["object"])


@cache
def classes() -> dict[str, tuple[Path, str]]:
    """The file and class of every kind of object."""
    found = {}
    for node in tree(sdk_folder() / "_object_classes.py").body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "OBJECT_CLASSES":
            assert node.value is not None
            for kind, (module, name) in ast.literal_eval(node.value).items():
                found[kind] = (sdk_folder().parent.joinpath(*module.split(".")).with_suffix(".py"), name)
    return found


def _check_class(path: Path, scope: tuple[ast.ClassDef, ...], given: Any, where: str) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where}: {given!r} is not a {scope[-1].name}"]
    fields = _fields(scope[-1])
    problems = [f"{where}.{key}: unknown field" for key in given if key not in fields]
    for key, kind in fields.items():
        if key in given:
            problems += _check_value(path, scope, kind, given[key], f"{where}.{key}")
        elif not _optional(kind):
            problems.append(f"{where}.{key}: missing field")
    return problems


@cache
def _fields(node: ast.ClassDef) -> dict[str, ast.expr]:
    lines = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    return {ast.unparse(one.target): one.annotation for one in lines}


@cache
def _optional(kind: ast.expr) -> bool:
    text = ast.unparse(kind)
    return text.startswith(("Optional[", "ClassVar["))


def _check_value(
    path: Path, scope: tuple[ast.ClassDef, ...], kind: ast.expr, given: Any, where: str
) -> list[str]:
    choices = choices_of(kind)
    if any(closes(choice) for choice in choices):
        choices = [choice for choice in choices if getattr(choice, "id", "") != "str"]
    return min((_check_choice(path, scope, choice, given, where) for choice in choices), key=len)


def _check_choice(
    path: Path, scope: tuple[ast.ClassDef, ...], kind: ast.expr, given: Any, where: str
) -> list[str]:
    if isinstance(kind, ast.Constant):
        return [] if given is None else _wrong(kind, given, where)
    if isinstance(kind, ast.Subscript):
        return _check_generic(path, scope, kind, given, where)
    assert isinstance(kind, ast.Name), ast.dump(kind)
    if kind.id in SCALARS:
        return [] if SCALARS[kind.id](given) else _wrong(kind, given, where)
    inner = _nested(scope, kind.id)
    if inner is not None:
        return _check_class(path, inner, given, where)
    if not isinstance(given, dict) or given.get("object") not in _kinds(path, kind.id):
        return _wrong(kind, given, where)
    return check_shape(given, where)


def _check_generic(
    path: Path, scope: tuple[ast.ClassDef, ...], kind: ast.Subscript, given: Any, where: str
) -> list[str]:
    head = getattr(kind.value, "id", "")
    if head == "Literal":
        return [] if given in literals(kind) else _wrong(kind, given, where)
    if head == "ExpandableField":
        return [] if isinstance(given, str) else _check_value(path, scope, kind.slice, given, where)
    if head == "ListObject":
        is_list = isinstance(given, dict) and given.get("object") == "list"
        rows = given["data"] if is_list else None
    else:
        rows = given if isinstance(given, list) else None
    if head in ("List", "ListObject"):
        if rows is None:
            return _wrong(kind, given, where)
        return [
            problem for one in rows for problem in _check_value(path, scope, kind.slice, one, f"{where}[]")
        ]
    assert head == "UntypedStripeObject", f"{where}: what is {ast.unparse(kind)}?"
    if not isinstance(given, dict):
        return _wrong(kind, given, where)
    if "object" in given:
        return check_shape(given, where)
    found = [_check_value(path, scope, kind.slice, one, f"{where}.{key}") for key, one in given.items()]
    return [problem for problems in found for problem in problems]


def _wrong(kind: ast.expr, given: Any, where: str) -> list[str]:
    return [f"{where}: {given!r} is not {ast.unparse(kind)[:80]}"]


@cache
def _nested(scope: tuple[ast.ClassDef, ...], name: str) -> tuple[ast.ClassDef, ...] | None:
    for node in scope[-1].body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (*scope, node)
    return None


@cache
def _kinds(path: Path, name: str) -> set[str]:
    """The kinds of object a class name may stand for, here where it may have been imported under an alias."""
    origin = imported_from(path).get(name, path)
    return {kind for kind, (file, _class) in classes().items() if file == origin}
