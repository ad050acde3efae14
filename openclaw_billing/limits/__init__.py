"""Limiters: who counts the calls that `gcra` judges: one process, one machine, or Redis for several."""
