"""The published figures of reliability and security, each measured anew.

python -m reliability                  everything, in under fifteen minutes on two cores
python -m reliability --only R1 R6     some
python -m reliability --quick          what a plain CI can, in about two minutes
python -m reliability --write          everything, and what was seen goes onto the pages
python -m reliability --json FILE      the same table for machines

`figures` says what is promised, `figure` what a figure is, `pages` publishes what was seen. Measured by:
`durable` and `planted`, the files and the simulation; `power_cut` on `block_device`, real file systems; `calls`,
callers of a gateway that is killed; `disks`, errors of the disk; `engines`, PostgreSQL and Redis; `shared`, several
processes; `strangers`, `generated`, `hostile`, `guesses` and `tampering`, who means no good. What is a matter of many
small cases is measured by the tests that `by_tests` runs and counts. `fuzz` is for those who have atheris.
"""
