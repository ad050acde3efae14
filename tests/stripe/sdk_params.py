"""What the installed Stripe SDK says about requests, read from its source: its types exist only for checkers."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Endpoint:
    """One call of the SDK: a path pattern, and the module and class of its parameters."""

    method: str
    template: str
    pattern: re.Pattern[str]
    params: tuple[Path, str] | None


@dataclass(frozen=True)
class Field:
    """One key of a TypedDict."""

    kind: ast.expr
    required: bool


def check(method: str, path: str, params: Any) -> list[str]:
    """What the SDK's types say against this request; numbers and booleans may be given as text."""
    endpoint = find(method, path)
    if endpoint is None:
        return [f"{method} {path}: the SDK has no such call"]
    if endpoint.params is None:
        return [f"{method} {path}: {name}: this call takes no parameters" for name in params]
    module, name = endpoint.params
    return [f"{method} {path}: {problem}" for problem in _check_dict(module, name, params, "")]


def find(method: str, path: str) -> Endpoint | None:
    """The SDK's call for a path: literal paths first, or `/v1/customers/search` would be a customer."""
    for endpoint in _by_method().get(method.lower(), ()):
        if endpoint.pattern.fullmatch(path):
            return endpoint
    return None


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Every call the SDK can make."""
    found = [one for path in sorted(sdk_folder().rglob("_*_service.py")) for one in _calls(path)]
    return tuple(sorted(found, key=lambda one: (one.template.count("{"), one.template)))


@cache
def _by_method() -> dict[str, list[Endpoint]]:
    table: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints():
        table.setdefault(endpoint.method, []).append(endpoint)
    return table


@cache
def sdk_folder() -> Path:
    spec = importlib.util.find_spec("stripe")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported_from(path: Path) -> dict[str, Path]:
    """Which file each imported name of ours comes from, those under TYPE_CHECKING too."""
    found = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stripe."):
            origin = sdk_folder().parent.joinpath(*str(node.module).split(".")).with_suffix(".py")
            found.update({name.asname or name.name: origin for name in node.names})
    return found


def _calls(path: Path) -> Iterator[Endpoint]:
    imports = imported_from(path)
    for function in ast.walk(tree(path)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_request":
                method, template = ast.literal_eval(node.args[0]), _template(node.args[1])
                yield Endpoint(method, template, _pattern(template), _params_of(function, imports))


def _template(node: ast.expr) -> str:
    literal = node.func.value if isinstance(node, ast.Call) else node  # type: ignore[attr-defined]
    return str(ast.literal_eval(literal))


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(re.escape(part) for part in re.split(r"\{\w+\}", template)))


def _params_of(function: ast.FunctionDef, imports: dict[str, Path]) -> tuple[Path, str] | None:
    for argument in function.args.args:
        if argument.arg == "params" and argument.annotation is not None:
            for name in _names(argument.annotation):
                if name in imports:
                    return imports[name], name
    return None


def _names(node: ast.expr) -> Iterator[str]:
    for inner in ast.walk(unquoted(node)):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier():
            yield inner.value


@cache
def unquoted(node: ast.expr) -> ast.expr:
    """An annotation, with the quotes taken off when the whole of it is quoted."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.parse(node.value, mode="eval").body
    return node


@cache
def _fields(path: Path, name: str) -> dict[str, Field] | None:
    """The keys of a TypedDict of the SDK, or None for a name that is none."""
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            inherited = [
                one for base in node.bases for one in (_fields(path, ast.unparse(base)) or {}).items()
            ]
            return dict([*inherited, *_own_fields(node)])
        if isinstance(node, ast.Assign) and any(
            getattr(target, "id", None) == name for target in node.targets
        ):
            return _functional_fields(node.value)
    return None


def _functional_fields(value: ast.expr) -> dict[str, Field] | None:
    # A key that is a keyword (`from`, `if`) makes the SDK write its TypedDict as a call.
    if not (isinstance(value, ast.Call) and len(value.args) == 2 and isinstance(value.args[1], ast.Dict)):
        return None
    table = value.args[1]
    return {
        ast.literal_eval(key): _field(kind) for key, kind in zip(table.keys, table.values, strict=True) if key
    }


def _own_fields(node: ast.ClassDef) -> Iterator[tuple[str, Field]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id, _field(line.annotation)


def _field(annotation: ast.expr) -> Field:
    kind = unquoted(annotation)
    if isinstance(kind, ast.Subscript) and getattr(kind.value, "id", "") == "NotRequired":
        return Field(unquoted(kind.slice), required=False)
    return Field(kind, required=True)


def _check_dict(path: Path, name: str, given: Any, where: str) -> list[str]:
    fields = _fields(path, name)
    assert fields is not None, f"{name} is not a TypedDict of {path.name}"
    if not isinstance(given, dict):
        return [f"{where}: {name} wants a dict"]
    problems = [f"{_at(where, key)}: unknown key" for key in given if key not in fields]
    for key, field in fields.items():
        if key in given:
            problems += _check_value(path, field.kind, given[key], _at(where, key))
        elif field.required:
            problems.append(f"{_at(where, key)}: missing key")
    return problems


def _at(where: str, key: str) -> str:
    return f"{where}[{key}]" if where else key


def _check_value(path: Path, kind: ast.expr, given: Any, where: str) -> list[str]:
    """The problems of the choice that fits best."""
    choices = choices_of(kind)
    if any(closes(choice) for choice in choices):
        # `Literal[…] | str` is how the SDK writes a closed list that may grow.
        choices = [choice for choice in choices if getattr(choice, "id", "") != "str"] or choices
    found = [_check_choice(path, choice, given, where) for choice in choices]
    return min(found, key=len)


@cache
def choices_of(kind: ast.expr) -> list[ast.expr]:
    kind = unquoted(kind)
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        return choices_of(kind.left) + choices_of(kind.right)
    if isinstance(kind, ast.Subscript) and getattr(kind.value, "id", "") in ("Union", "Optional"):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        none: list[ast.expr] = [ast.Constant(None)] if getattr(kind.value, "id", "") == "Optional" else []
        return [choice for one in inner for choice in choices_of(one)] + none
    return [kind]


@cache
def closes(kind: ast.expr) -> bool:
    named = isinstance(kind, ast.Subscript) and getattr(kind.value, "id", "") == "Literal"
    # A lone '' only says how a value is cleared; it closes nothing.
    return named and literals(kind) != [""]


@cache
def literals(kind: ast.expr) -> list[Any]:
    assert isinstance(kind, ast.Subscript)
    value = ast.literal_eval(kind.slice)
    return list(value) if isinstance(value, tuple) else [value]


def _check_choice(path: Path, kind: ast.expr, given: Any, where: str) -> list[str]:
    if isinstance(kind, ast.Constant):
        return [] if given is None else _wrong(kind, given, where)
    if isinstance(kind, ast.Subscript):
        return _check_generic(path, kind, given, where)
    assert isinstance(kind, ast.Name), ast.dump(kind)
    if kind.id in _SCALARS:
        return [] if _SCALARS[kind.id](given) else _wrong(kind, given, where)
    module = path if _fields(path, kind.id) is not None else imported_from(path)[kind.id]
    return _check_dict(module, kind.id, given, where)


def _check_generic(path: Path, kind: ast.Subscript, given: Any, where: str) -> list[str]:
    head = getattr(kind.value, "id", "")
    if head == "Literal":
        return [] if given in literals(kind) else _wrong(kind, given, where)
    if head in ("List", "list", "Sequence"):
        rows: Iterable[tuple[Any, Any]] | None = enumerate(given) if isinstance(given, list) else None
        inner = kind.slice
    else:
        assert head in ("Dict", "dict", "Mapping", "UntypedStripeObject"), (
            f"{where}: what is {ast.unparse(kind)}?"
        )
        rows = given.items() if isinstance(given, dict) else None
        inner = kind.slice.elts[-1] if isinstance(kind.slice, ast.Tuple) else kind.slice
    if rows is None:
        return _wrong(kind, given, where)
    found = [_check_value(path, inner, one, f"{where}[{key}]") for key, one in rows]
    return [problem for problems in found for problem in problems]


def _wrong(kind: ast.expr, given: Any, where: str) -> list[str]:
    return [f"{where}: {given!r} is not {ast.unparse(kind)[:80]}"]


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and re.fullmatch(r"-?\d+", value) is not None
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) is not None
    )


_SCALARS: dict[str, Any] = {
    "str": lambda value: isinstance(value, str),
    "int": _is_integer,
    "float": lambda value: _is_integer(value) or _is_number(value),
    "Decimal": lambda value: _is_integer(value) or _is_number(value),
    "bool": lambda value: isinstance(value, bool) or value in ("true", "false"),
    "Any": lambda value: True,
}
