"""Bare: the endpoint without authentication or billing. Every ratio is to this one."""

from __future__ import annotations

from benchmarks.subjects.subject import Subject


class Bare(Subject):
    name = "bare"
    app = "benchmarks.subjects.bare_app:app"
    charges = False
