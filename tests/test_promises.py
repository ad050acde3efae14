"""The pages of promises: every test that they name is there, and no figure is on them that was not measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reliability import pages
from reliability.figures import FIGURES

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "docs" / "security.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"(tests/[\w/]+\.py)::(\w+)", SECURITY + RELIABILITY)
# Level 2 of the ASVS 5.0 as far as it concerns a gateway like this, and level 3 for 2.3, 11.2.4 and 15.4.
REQUIRED = (
    *(
        "1.2.10",
        "1.3.6",
        "1.5.3",
        "2.2.1",
        "2.3.2–2.3.4",
        "2.4.1",
        "3.3–3.5",
        "4.1.3",
        "4.2.1",
        "6.3.1",
        "6.5.2",
    ),
    *(
        "7.2.3",
        "7.3",
        "7.4",
        "8.2.1–8.2.3",
        "8.4.1",
        "11.2.4",
        "11.5.1",
        "13.2.3",
        "13.3",
        "13.4.5",
        "14.2.1",
        "14.3.2",
    ),
    *("15.3.1–15.3.3", "15.4.1–15.4.3", "16.2.5", "16.3", "16.4.1", "16.4.2", "16.5.1–16.5.4"),
)


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


@pytest.mark.parametrize("requirement", REQUIRED)
def test_every_requirement_has_its_test_or_its_reason(requirement: str) -> None:
    asvs = SECURITY.partition("## ASVS 5.0")[2].partition("\n## ")[0]
    reasons = asvs.partition("Not covered:")[2]
    row = re.search(rf"^\| {re.escape(requirement)} [^|]+ \| tests/\S+::\w+", asvs, re.MULTILINE)
    assert row or re.search(rf"(?<![\d.]){re.escape(requirement)}(?![\d.]*\d)", reasons)


def test_each_of_the_ten_risks_has_a_row() -> None:
    assert re.findall(r"^\| API(\d+) ", SECURITY, re.MULTILINE) == [str(each) for each in range(1, 11)]


@pytest.mark.parametrize("kind", sorted(pages.PAGES))
def test_the_figures_on_the_pages_are_those_that_the_command_has_written(kind: str) -> None:
    text = pages.PAGES[kind].read_text()
    assert pages.with_table(text, kind, pages.seen()) == text, "python -m reliability --write"
    shown = re.findall(rf"^\| ({kind}\d+) \| (.*?) \| ", text, re.MULTILINE)
    assert shown == [(each.name, each.goal) for each in FIGURES if each.name.startswith(kind)]


def test_what_was_seen_was_seen_of_the_goals_that_are_promised() -> None:
    goals = {figure.name: figure.goal for figure in FIGURES}
    for name, row in pages.seen().items():
        assert row["goal"] == goals[name], name
        assert row["verdict"] in pages.VERDICTS
        # A part that was not measured is no part of a figure that is met.
        assert not (row["verdict"] == "met" and row["skipped"]), name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
        assert row["machine"]


def test_no_row_is_shown_as_met_that_was_measured_for_another_goal() -> None:
    figure = FIGURES[0]
    row = pages.Row(figure.name, "another goal", "nothing", "met", (), 1.0, "2026-01-01", "a machine").shown()
    assert f"| {figure.name} | {figure.goal} | | not measured |" in pages.table(
        figure.name[0], {figure.name: row}
    )


def test_a_part_that_is_skipped_makes_no_figure_met() -> None:
    from reliability.figure import Seen, Skipped, all_of

    def missing() -> Seen:
        raise Skipped("strace is not installed")

    def met() -> Seen:
        return Seen("all of it", True)

    seen = all_of(met, missing)()
    assert (seen.met, seen.skipped) == (True, ("strace is not installed",))
    with pytest.raises(Skipped):
        all_of(missing, missing)()
    assert not all_of(met, lambda: Seen("lost one", False))().met
