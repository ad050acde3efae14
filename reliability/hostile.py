"""Bodies that nobody sends who means well, written by hand; and the headers that they come under."""

from __future__ import annotations

import json

_JOB = {"project_name": "Build", "description": "A feature", "task_type": "other"}
_CLIENT = {"name": "A", "email": "b@example.com", "plan": "pro"}


def _job(**changes: object) -> bytes:
    return json.dumps({**_JOB, **changes}).encode()


def _client(**changes: object) -> bytes:
    return json.dumps({**_CLIENT, **changes}).encode()


NOT_JSON = (
    b"",
    b" ",
    b"\0",
    b"{",
    b"}",
    b"[",
    b"{}{}",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a" 1}',
    b"nul",
    b"undefined",
    b"a=1&b=2",
    b"<x/>",
    b"\xff\xfe\xfd",
    b"\xef\xbb\xbf{}",
    json.dumps(_JOB).encode("utf-16"),
    json.dumps(_JOB).encode("utf-32"),
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\xc0\xaf"}',
    b'{"a": "' + b"\xff" * 100 + b'"}',
    b'{"a": "\n"}',
    b'{"a": 01}',
)
ANOTHER_READING = (
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"credits": NaN, "reason": "r"}',
    b'{"credits": 1e400, "reason": "r"}',
    b'{"credits": 5, "credits": 500, "reason": "r"}',
    b'{"credits": ' + b"9" * 4_000 + b', "reason": "r"}',
    b'{"credits": 0.' + b"1" * 4_000 + b', "reason": "r"}',
    b'{"credits": true, "reason": "r"}',
    b'{"credits": "5", "reason": "r"}',
    b'{"credits": -9223372036854775809, "reason": "r"}',
    b'{"credits": [5], "reason": {"a": 1}}',
    b'{"\\ud800": 1}',
    b'{"reason": "\\udfff", "credits": 1}',
)
DEEP_OR_WIDE = (
    b"[" * 100_000,
    b"[" * 32_000 + b"]" * 32_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b"[" + b"[]," * 20_000 + b"[]]",
    b"{" + b",".join(b'"k%d":1' % number for number in range(5_000)) + b"}",
    json.dumps({"x" * 60_000: 1}).encode(),
    b'"' + b"x" * 60_000 + b'"',
    b'"' + b"\\u0041" * 10_000 + b'"',
)
OTHER_KINDS = (b"null", b"true", b"0", b"-0", b'""', b"[]", b"{}", b"[null]", b"[[]]", b'["a"]', b"1e308")
TEXTS = (
    "",
    " ",
    "\0",
    "a\nb",
    "a\r\nSet-Cookie: x=1",
    "\u202etxt.exe",
    "\u2028",
    "\ufeff",
    "\x7f",
    "\x85",
    "=HYPERLINK(1)",
    "<script>alert(1)</script>",
    "'; DROP TABLE clients; --",
    "../../etc/passwd",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%s%s%n",
    "\U0010ffff",
    "e\u0301" * 200,
    "x" * 10_000,
)
HOSTILE_TEXT = (
    *(_job(project_name=text) for text in TEXTS),
    *(_client(email=f"{text}@example.com") for text in TEXTS),
    *(json.dumps({"credits": 1, "reason": text}).encode() for text in TEXTS),
    _job(task_type="\ud800"),
    _job(budget_limit=-1),
    _job(budget_limit="NaN"),
    _job(unknown=1),
    _job(client_id="somebody"),
    _client(plan="\0"),
    _client(credits_remaining=10**9),
    _client(__proto__={"admin": True}),
)
BODIES: tuple[bytes, ...] = (*NOT_JSON, *ANOTHER_READING, *DEEP_OR_WIDE, *OTHER_KINDS, *HOSTILE_TEXT)

HEADERS: tuple[dict[str, str], ...] = (
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Encoding": "gzip"},
    {"Idempotency-Key": "x" * 5_000, "Stripe-Signature": "t=1,v1=" + "0" * 64},
)
