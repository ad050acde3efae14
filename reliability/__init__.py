"""The published figures of reliability and security, each measured anew.

python -m reliability                  everything, in under fifteen minutes on two cores
python -m reliability --only R1 R6     some
python -m reliability --quick          what a plain CI can, in about two minutes
python -m reliability --json FILE      the same table for machines

`figures` says what is published; `durable`, `shared`, `strangers` and `serving` measure it; what is a matter
of many small cases is measured by the tests that `by_tests` runs and counts.
"""
