"""The readers of what strangers write, fuzzed by coverage: `python -m reliability.fuzz [--seconds 10] [reader…]`.

It needs atheris, which is no part of the development requirements: `pip install atheris`. Each reader runs in a
process of its own, for so long; what it may not survive is printed with the bytes that did it, and kept in a file.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime

from openclaw_billing.errors import BadRequest, CorruptStore
from openclaw_billing.keys import Peppers, is_key_shape, key_of
from openclaw_billing.signatures import is_signed
from openclaw_billing.stores import json_load
from openclaw_billing.stores.journal import Chain, Reader
from openclaw_billing.web import cursors, strict_json

NOW = datetime(2026, 2, 19, 10, 30, tzinfo=UTC)
PEPPERS = Peppers([("p1", b"one pepper, long enough to be good")])
SECRETS = ["whsec_" + "a" * 32, ""]


def key(raw: bytes) -> None:
    """Key text: of our shape, and then it has a digest, or not."""
    text = raw.decode("utf-8", "surrogateescape")
    if is_key_shape(text):
        assert text.isascii()
        key_of(text, PEPPERS, key_id="k", client_id="c", now=NOW)


def journal(raw: bytes) -> None:
    """Lines as they come, and as somebody would write them who can sum them: taken in, or refused by name."""
    sealed, _ = Chain().seal(raw.replace(b"\n", b" "))
    for data in (raw, sealed):
        reader, good = Reader("journal", Chain()), 0
        loaded = json_load.Loaded()
        try:
            for line in reader.lines(data, 0):
                json_load.take([line], loaded, "journal")
                good = line.end
            reader.tail(data, 0, good)
        except CorruptStore as refused:
            if "at byte" not in str(refused):
                raise


def signature(raw: bytes) -> None:
    """The header of a Stripe event: nothing is signed by chance."""
    header, _, body = raw.partition(b"\n")
    assert not is_signed(body, header.decode("latin-1"), SECRETS, NOW)


def body(raw: bytes) -> None:
    """A body: one value, which can be written again, or one refusal."""
    try:
        value = strict_json.loads(raw)
    except BadRequest:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")


def cursor(raw: bytes) -> None:
    """A cursor: a place that is written so and no other way, or one refusal."""
    text = raw.decode("utf-8", "surrogateescape")
    try:
        place = cursors.decode(text, "filters")
    except BadRequest:
        return
    assert cursors.encode(place, "filters") == text


READERS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (key, journal, signature, body, cursor)
}
SEEDS: dict[str, bytes] = {
    "key": b"oc_live_" + b"0123456789abcdef" * 2,
    "journal": b'{"v":1,"seq":1,"prev":"'
    + b"0" * 64
    + b'","batch":[1,1,1],"time":"2026-02-19T10:30:00Z","op":"genesis"',
    "signature": b"t=1771497000,v1=" + b"0" * 64 + b"\n{}",
    "body": b'{"project_name": "Build", "budget_limit": 1.5, "x": [null, true, "\\ud83d\\ude00"]}',
    "cursor": cursors.encode("2026-02-19T10:30:00+00:00 c1", "filters").encode(),
}


def fuzz(name: str, seconds: int) -> None:
    """In this process, which does not come back."""
    import atheris

    # Read anew, so that every branch of ours is watched, and none of what was imported before.
    for module in [each for each in sys.modules if each.partition(".")[0] == "openclaw_billing"]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["openclaw_billing"], enable_loader_override=False):
        watched = importlib.import_module("reliability.fuzz")
    with tempfile.TemporaryDirectory() as corpus:
        with open(f"{corpus}/seed", "wb") as seed:
            seed.write(SEEDS[name])
        options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, corpus], watched.READERS[name])
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="reader", help=f"of {' '.join(READERS)}; all of them")
    parser.add_argument("--seconds", type=int, default=10, help="for each (10)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.readers) - READERS.keys():
        parser.error(f"no such reader: {' '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: .venv/bin/pip install atheris")
        return 2
    if options.here:
        fuzz(options.readers[0], options.seconds)
    failed = 0
    for name in options.readers or READERS:
        command = [
            sys.executable,
            "-m",
            "reliability.fuzz",
            "--here",
            "--seconds",
            str(options.seconds),
            name,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ran = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        tries = ran[0].split()[-1] if ran else "?"
        print(f"{name}: {'FAILED' if done.returncode else 'nothing found'} in {tries} tries", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout[-2_000:], done.stderr[-4_000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
