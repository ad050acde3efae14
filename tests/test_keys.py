from __future__ import annotations

import hashlib
import hmac
import re

import pytest

from openclaw_billing import keys
from openclaw_billing.errors import BadSettings
from openclaw_billing.keys import Peppers, is_key_shape, new_checked_key_text, new_key_text

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 100)
KEY_TEXT = "oc_live_0123456789abcdef0123456789abcdef"


def test_a_new_key_has_the_promised_form_and_is_never_the_same() -> None:
    texts = {new_key_text() for _ in range(1000)}
    assert len(texts) == 1000
    assert all(re.fullmatch(r"oc_live_[0-9a-f]{32}", text) for text in texts)
    assert all(is_key_shape(text) for text in texts)


def test_a_checked_key_tells_every_typing_error() -> None:
    for _ in range(50):
        text = new_checked_key_text()
        assert len(text) == len("oc_live_") + 28
        assert is_key_shape(text)
        for place in range(len("oc_live_"), len(text)):
            typo = text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]
            assert not is_key_shape(typo)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oc_live_",
        KEY_TEXT[:-1],
        KEY_TEXT + "0",
        KEY_TEXT + "\n",
        " " + KEY_TEXT,
        KEY_TEXT.upper(),
        KEY_TEXT.replace("0", "g"),
        KEY_TEXT.replace("live", "test"),
        KEY_TEXT[:-1] + "\0",
        KEY_TEXT[:-1] + "\u0663",
        KEY_TEXT[:-1] + "é",
        KEY_TEXT[:-1] + "\ud800",
        KEY_TEXT * 100_000,
        None,
        7,
        KEY_TEXT.encode(),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_what_has_not_the_shape_of_a_key_is_no_key(text: object) -> None:
    assert not is_key_shape(text)


def test_a_digest_is_the_standards_hmac() -> None:
    for pepper_id, secret in (OLD, NEW):
        expected = hmac.new(secret, KEY_TEXT.encode(), hashlib.sha256).hexdigest()
        assert Peppers([(pepper_id, secret)]).digest(KEY_TEXT) == expected


def test_the_newest_pepper_makes_digests_and_every_one_finds_them() -> None:
    peppers = Peppers([OLD, NEW])
    assert peppers.newest_id == "new"
    assert peppers.digest(KEY_TEXT) == Peppers([NEW]).digest(KEY_TEXT)
    assert peppers.digests(KEY_TEXT) == [Peppers([NEW]).digest(KEY_TEXT), Peppers([OLD]).digest(KEY_TEXT)]
    assert peppers.digest(KEY_TEXT) == peppers.digest(KEY_TEXT)


@pytest.mark.parametrize(
    "peppers",
    [[], [("empty", b"")], [("short", b"x" * 31)], [OLD, ("old", b"z" * 32)], [OLD] * 6],
    ids=["none", "empty", "short", "one id twice", "too many"],
)
def test_a_pepper_that_anyone_could_guess_is_refused(peppers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(BadSettings):
        Peppers(peppers)


def test_a_scanner_finds_a_leaked_key_in_a_text() -> None:
    assert re.search(keys.SCANNER_PATTERN, f'api_key = "{new_key_text()}"')
    assert not re.search(keys.SCANNER_PATTERN, "oc_live_" + "0" * 33)


def test_a_scanner_sees_a_key_at_the_end_of_a_file() -> None:
    assert re.search(keys.SCANNER_PATTERN, f"key={new_key_text()}")
