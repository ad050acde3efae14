"""A figure: a promise, how it is measured, and what was seen."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Skipped(Exception):
    """It cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured, and whether it meets the goal."""

    text: str
    met: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """`quick` is what a plain CI measures in its place; None when that is not worth its time."""

    name: str
    goal: str
    measure: Callable[[], Seen]
    quick: Callable[[], Seen] | None = None


def by_tests(*which: str, slow: bool = False, seconds_max: int = 600) -> Callable[[], Seen]:
    """As many as these tests are, all of them must pass."""

    def measure() -> Seen:
        marks = "slow or not slow" if slow else "not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", marks, *which]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds_max,
            check=False,
        )
        said = done.stdout.decode()
        counts = {
            word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", said)
        }
        if not counts.get("passed") and not counts.get("failed") and counts.get("skipped"):
            reason = re.search(r"SKIPPED.*?: (.*)", said)
            raise Skipped(reason[1] if reason else "its tests are skipped here")
        text = f"{counts.get('passed', 0)} tests pass"
        if counts.get("skipped"):
            text += f", {counts['skipped']} skipped"
        if done.returncode:
            failed = re.findall(r"^FAILED (\S+)", said, re.MULTILINE)
            text += f", not: {' '.join(failed) or said[-200:]}"
        return Seen(text, done.returncode == 0)

    return measure
