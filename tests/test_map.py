"""The map in the package's docstring is true: every module is on it, and imports point upwards."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import openclaw_billing

HOUSE = Path(openclaw_billing.__file__).parent
LINES_MAX = 400
FUNCTION_LINES_MAX = 60


def layers() -> dict[str, int]:
    """Each module's layer, counted from the top."""
    found = re.findall(r"^    (\w+)  +([\w ]+)$", openclaw_billing.__doc__ or "", re.MULTILINE)
    # A layer may take several lines.
    depths = {name: depth for depth, name in enumerate(dict.fromkeys(name for name, _ in found))}
    return {module: depths[name] for name, modules in found for module in modules.split()}


def sources() -> list[Path]:
    return sorted(path for path in HOUSE.rglob("*.py") if path != HOUSE / "__init__.py")


def module_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The modules of the house that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("openclaw_billing.")
            }
        elif isinstance(node, ast.ImportFrom) and node.module == "openclaw_billing":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openclaw_billing."):
            found.add((node.module or "").split(".")[1])
    return found


def test_every_module_is_on_the_map_and_the_map_names_no_other() -> None:
    assert {module_of(path) for path in sources()} == set(layers())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_module_imports_from_its_own_layer_or_above(path: Path) -> None:
    depth = layers()
    below = {name for name in imports_of(path) if depth[name] > depth[module_of(path)]}
    assert not below


def test_the_door_is_one_short_file_and_the_house_has_no_long_ones() -> None:
    door = HOUSE.parent / "client_auth.py"
    assert len(door.read_text().splitlines()) < 300
    for path in sources():
        source = path.read_text()
        assert len(source.splitlines()) <= LINES_MAX, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # Counted without what it is called and what it says of itself.
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                assert (node.end_lineno or 0) - first.lineno < FUNCTION_LINES_MAX, (path, node.name)


def test_importing_opens_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    root = HOUSE.parent
    code = (
        "import sys, threading; sys.path.insert(0, sys.argv[1]);"
        "import client_auth, intake_routes, gateway;"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
