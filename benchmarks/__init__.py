"""What billing costs, beside the same endpoint without it: real servers, a real load, ratios in one run.

    cli         the command: options, then groups of rounds, then the report
    rounds      one group: its subjects take turns, so that the machine's drift falls on all of them
    server      one server process: started, waited for, ended by its id
    load wire   the load tool: a process of its own that keeps connections busy
    wrk         the same through `wrk`, where it is installed
    subjects/   what is measured: bare, naive, sqlite, sqlite-grouped, ours, ours-postgres
    slow_flush/ makes a server's fsync take longer, as on a common disk
    in_process  single functions, timed without HTTP
    engines     PostgreSQL beside its pgbench, and Redis, without HTTP
    results report picture      medians and ratios; table and JSON; SVG

Run `python -m benchmarks --help`; the README in this folder says how to read what it prints.
"""
