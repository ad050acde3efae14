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
    """It cannot be measured here; the text names what is missing. Nothing else may be skipped for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured, and whether it meets the goal; what could not be measured here is no part of that."""

    text: str
    met: bool
    skipped: tuple[str, ...] = ()


Measure = Callable[[], Seen]


@dataclass(frozen=True, slots=True)
class Figure:
    """`quick` is what a plain CI measures in its place; None when that is not worth its time."""

    name: str
    goal: str
    measure: Measure
    quick: Measure | None = None


def all_of(*measures: Measure) -> Measure:
    """Several measurements of one figure: each must meet the goal, and each that is skipped is told."""

    def measure() -> Seen:
        texts: list[str] = []
        skipped: list[str] = []
        met = True
        for each in measures:
            try:
                seen = each()
            except Skipped as reason:
                skipped.append(str(reason))
                continue
            texts.append(seen.text)
            skipped += seen.skipped
            met = met and seen.met
        if not texts:
            raise Skipped("; ".join(skipped))
        return Seen("; ".join(texts), met, tuple(skipped))

    return measure


def not_built(reason: str) -> Measure:
    def measure() -> Seen:
        raise Skipped(reason)

    return measure


def by_tests(*which: str, slow: bool = False, seconds_max: int = 600) -> Measure:
    """As many as these tests are, all of them must pass."""

    def measure() -> Seen:
        marks = "slow or not slow" if slow else "not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-n", "2", "-m", marks, *which]
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
        reasons = tuple(
            f"{count} tests: {reason}"
            for count, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", said, re.MULTILINE)
        )
        if not counts.get("passed") and not counts.get("failed") and reasons:
            raise Skipped("; ".join(reasons))
        text = f"{counts.get('passed', 0)} tests pass"
        if done.returncode:
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
            text += f", not: {' '.join(failed) or said[-200:]}"
        return Seen(text, done.returncode == 0, reasons)

    return measure
