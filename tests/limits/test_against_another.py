"""Our rule beside an established limiter's: told the same calls, both say the same of each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openclaw_billing.gcra import SECOND_US, Limit, judge

throttled = pytest.importorskip(
    "throttled",
    reason="throttled-py is not installed: `.venv/bin/pip install -r requirements-dev.txt` installs it",
)

# Whole in binary and in microseconds alike: the other counts in floating seconds.
STEP_US = SECOND_US // 64


@settings(deadline=None)
@given(
    rate=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    burst=st.integers(1, 40),
    steps=st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 64, 200, 5_000]), min_size=1, max_size=150),
)
def test_an_established_limiter_agrees(rate: int, burst: int, steps: list[int]) -> None:
    from throttled import utils

    now_us = 1_000 * SECOND_US
    theirs = throttled.Throttled(
        using=throttled.RateLimiterType.GCRA.value,
        quota=throttled.per_sec(rate, burst=burst),
        store=throttled.MemoryStore(),
    )
    ours, stored = (Limit("default", rate, SECOND_US, burst),), [0]
    with pytest.MonkeyPatch.context() as patch:
        # Foreign code has a clock of its own; here it is ours.
        patch.setattr(utils, "now_mono_f", lambda: now_us / SECOND_US)
        for step in steps:
            now_us += step * STEP_US
            verdict, told = judge(ours, stored, now_us), theirs.limit("acme")
            stored = list(verdict.times)
            assert verdict.allowed == (not told.limited)
            assert verdict.remaining == told.state.remaining
            assert verdict.reset_us == round(told.state.reset_after * SECOND_US)
            if told.limited:
                assert verdict.retry_after_us == round(told.state.retry_after * SECOND_US)
