"""A machine made of dictionaries: the JSON store runs on it, and it crashes wherever a seed says.

python -m tests.simulation --seed N      replay one seed
python -m tests.simulation --seeds N     try so many
python -m tests.simulation --night       try a night's, others each day

`disk` keeps what was written apart from what was made durable; `system` is what the store calls `os`, `fcntl`,
`time` and `mmap`; `turns` lets one simulated process run at a time; `world` tells one history; `judge` compares
what the disk holds afterwards with every answer that was given.
"""
