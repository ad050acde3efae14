"""One group of rounds: each subject's server runs alone, and in every round each has its turn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import server
from benchmarks.load import LoadFailed, LoadPlan, LoadResult, run_load
from benchmarks.results import Group, Outcome, Round, Setting
from benchmarks.subjects.subject import CREDITS_EACH, Site, Subject
from benchmarks.wrk import run_wrk

INTAKE_PATH = "/api/intake"
BODY = json.dumps(
    {
        "project_name": "Feature Build",
        "description": "Add user authentication",
        "task_type": "feature_build",
        "priority": "P1",
    }
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often to measure, and with which tool."""

    rounds: int
    seconds: float
    warmup_seconds: float
    wrk: bool


@dataclass(slots=True)
class Turn:
    """A subject within a group, from its first round to its last."""

    subject: Subject
    outcome: Outcome
    data_dir: Path
    keys: list[str]
    sent: int = 0

    @property
    def touched(self) -> list[str]:
        """The keys used so far: they are used in turn, each round going on where the last one ended."""
        return self.keys[: self.sent]


def measure(setting: Setting, subjects: list[Subject], pace: Pace, parent_dir: Path, say: Say) -> Group:
    """Measure these subjects side by side; one that fails is left out of the rounds that follow."""
    with tempfile.TemporaryDirectory(dir=parent_dir, prefix="group-") as folder:
        turns = [_prepare(subject, setting, Path(folder), say) for subject in subjects]
        for number in range(1, pace.rounds + 1):
            for turn in turns:
                if not turn.outcome.fault:
                    _take(turn, number, setting, pace, say)
    return Group(setting, [turn.outcome for turn in turns])


def _prepare(subject: Subject, setting: Setting, folder: Path, say: Say) -> Turn:
    data_dir = folder / subject.name
    data_dir.mkdir()
    say(f"  {subject.name}: preparing {setting.clients:,} clients")
    return Turn(subject, Outcome(subject.name), data_dir, subject.prepare(data_dir, setting.clients))


def _take(turn: Turn, number: int, setting: Setting, pace: Pace, say: Say) -> None:
    """One round of one subject; after the last, its charges are counted while the server still runs."""
    subject, outcome = turn.subject, turn.outcome
    site = Site(turn.data_dir, server.free_port(), setting.workers)
    log = turn.data_dir.with_suffix(".log")
    command, environment = subject.command(site), subject.environment(site)
    try:
        with server.running(command, environment, site.port, log, setting.flush_ms) as running:
            outcome.rounds.append(_apply(turn, number, running, _plan(turn, site, setting, pace), pace))
            if number == pace.rounds and subject.charges:
                _count(turn, site)
        if outcome.failed:
            outcome.doubt(
                f"{outcome.failed:,} requests were refused; each should have been accepted", subject.exact
            )
    except (server.ServerFailed, LoadFailed) as error:
        outcome.fault = str(error)
        say(f"  {subject.name}: {error}")
        return
    load = outcome.rounds[-1].load
    say(f"  round {number}/{pace.rounds} {subject.name}: {load.rate:,.0f}/s, p99 {load.p99_ms:.1f} ms")


def _plan(turn: Turn, site: Site, setting: Setting, pace: Pace) -> LoadPlan:
    return LoadPlan(
        port=site.port,
        path=INTAKE_PATH,
        body=BODY,
        keys=turn.keys,
        first=turn.sent,
        connections=setting.connections,
        warmup_seconds=pace.warmup_seconds,
        seconds=pace.seconds,
    )


def _apply(turn: Turn, number: int, running: server.Server, plan: LoadPlan, pace: Pace) -> Round:
    cpu_before = running.cpu_seconds()
    load: LoadResult = run_wrk(plan) if pace.wrk else run_load(plan)
    cpu_after = running.cpu_seconds()
    turn.sent += load.sent
    answered = load.accepted + load.failed
    if cpu_before is None or cpu_after is None or not answered:
        return Round(number, load, None)
    return Round(number, load, (cpu_after - cpu_before) / answered * 1e6)


def _count(turn: Turn, site: Site) -> None:
    touched = turn.touched
    try:
        left = turn.subject.credits_left(site, touched)
    except (OSError, ValueError, RuntimeError) as error:
        turn.outcome.doubt(f"its charges could not be counted: {error}", turn.subject.exact)
        return
    turn.outcome.judge(CREDITS_EACH * len(touched) - left, turn.subject.exact)
