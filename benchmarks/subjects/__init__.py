"""Subjects: the designs that are measured, in the order in which they take turns."""

from __future__ import annotations

from benchmarks.subjects.bare import Bare
from benchmarks.subjects.naive import Naive
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.ours_postgres import OursPostgres
from benchmarks.subjects.sqlite import Sqlite
from benchmarks.subjects.subject import Subject

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        Bare(),
        Ours(),
        OursPostgres(),
        Sqlite("sqlite", batch_max=1),
        Sqlite("sqlite-grouped", batch_max=1_000),
        Naive(),
    )
}
