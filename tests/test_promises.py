"""The pages of promises: every test that they name is there, and every figure that is measured is on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reliability.figures import FIGURES

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "docs" / "security.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"(tests/[\w/]+\.py)::(\w+)", SECURITY + RELIABILITY)


def test_every_test_that_a_page_names_exists() -> None:
    assert len(NAMED) > 60
    for path, name in NAMED:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (path, name)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:tests|reliability)/[\w/.]+)`", SECURITY + RELIABILITY)))
)
def test_every_file_that_a_page_names_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_hole_has_its_test() -> None:
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| tests/\S+ \|$", SECURITY, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 33))


def test_every_figure_stands_on_its_page_with_its_goal() -> None:
    for figure in FIGURES:
        page = SECURITY if figure.name.startswith("S") else RELIABILITY
        assert f"| {figure.name} | {figure.goal} |" in page, figure.name


def test_each_of_the_ten_risks_has_a_row() -> None:
    assert re.findall(r"^\| API(\d+) ", SECURITY, re.MULTILINE) == [str(each) for each in range(1, 11)]
