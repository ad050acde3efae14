"""Text: what strangers may write, and what not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw_billing.text import clean_email, clean_id, clean_text, email_key

HIDDEN = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
ANY_TEXT = st.text(alphabet=st.characters(), max_size=60)


def is_safe(text: str) -> bool:
    return not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") or each in HIDDEN for each in text)


@given(ANY_TEXT)
def test_a_line_that_passes_shows_as_what_it_is(value: str) -> None:
    try:
        text = clean_text(value, 40)
    except ValueError:
        return
    assert is_safe(text)
    assert text == value.strip()
    assert 1 <= len(text) <= 40
    assert clean_text(text, 40) == text


@given(ANY_TEXT)
def test_lines_may_have_feeds_and_tabs_and_nothing_else(value: str) -> None:
    try:
        text = clean_text(value, 40, multiline=True)
    except ValueError:
        return
    assert is_safe(text.replace("\n", "").replace("\t", ""))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40))
def test_ordinary_writing_of_any_script_passes(value: str) -> None:
    assert clean_text(value, 40) == value


@pytest.mark.parametrize(
    "bad", [*HIDDEN, *map(chr, range(32)), *map(chr, range(127, 160)), *map(chr, (0xD800, 0xDFFF))]
)
def test_every_control_is_refused_in_a_line(bad: str) -> None:
    with pytest.raises(ValueError, match="control characters") as refused:
        clean_text(f"Acme{bad}Corp", 40)
    assert "Acme" not in str(refused.value)


@pytest.mark.parametrize("blank", ["", " ", "\u3000", "\u200b", "\ufeff ", "\u00a0"])
def test_what_shows_nothing_is_blank(blank: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        clean_text(blank, 40)


def test_a_carriage_return_is_refused_in_lines_too() -> None:
    with pytest.raises(ValueError, match="control"):
        clean_text("one\r\ntwo", 40, multiline=True)
    assert clean_text("one\n\ttwo\n", 40, multiline=True) == "one\n\ttwo"


def test_the_length_is_counted_without_the_blanks_around() -> None:
    assert clean_text(f"  {'x' * 40}  ", 40) == "x" * 40
    with pytest.raises(ValueError, match="at most 40"):
        clean_text("x" * 41, 40)


@pytest.mark.parametrize(
    "address",
    [
        "api@acmecorp.com",
        "o'brien+billing@mail.example.co.uk",
        "a@b.io",
        f"{'x' * 64}@example.com",
        "bounce=7@example.com",
        "name@xn--bcher-kva.example",
    ],
)
def test_addresses_pass_as_written(address: str) -> None:
    assert clean_email(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "acme",
        "@example.com",
        "a@",
        "a@b",
        "a@b@example.com",
        "a b@example.com",
        " a@example.com",
        "a@example.com\n",
        "Acme <a@example.com>",
        "<script>@example.com",
        "=cmd@example.com",
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "a@-example.com",
        "a@example-.com",
        "a@.com",
        "a@example.com.",
        "a@127.0.0.1",
        '"a"@example.com',
        "ü@example.com",
        "a@exämple.com",
        f"{'x' * 65}@example.com",
        f"a@{'x' * 64}.com",
        f"a@{'.'.join(['x' * 60] * 5)}.com",
    ],
)
def test_what_is_no_plain_address_is_refused_without_echo(address: str) -> None:
    with pytest.raises(ValueError, match="it must be") as refused:
        clean_email(address)
    assert str(refused.value) == "it must be an e-mail address such as name@example.com"


@given(st.emails())
def test_an_address_has_one_at_and_a_dot_behind_it(address: str) -> None:
    try:
        kept = clean_email(address)
    except ValueError:
        return
    local, domain = kept.split("@")
    assert len(local) <= 64
    assert "." in domain
    assert not set(kept) & set(' <>"&\\(),:;[]`{}|\t\n')
    assert kept[0] != "="


def test_the_same_address_in_another_case_is_the_same() -> None:
    assert email_key("API@Acme.Com") == email_key("api@acme.com")


@given(ANY_TEXT)
def test_an_id_that_passes_is_visible(value: str) -> None:
    try:
        kept = clean_id(value)
    except ValueError:
        return
    assert kept == value
    assert is_safe(kept)
    assert not any(each.isspace() and each != " " for each in kept)


@pytest.mark.parametrize("value", ["", "x" * 201, "a\tb", "a\nb", "a\x00b", "a\u202eb", "a\u00a0b", "\ud800"])
def test_an_id_with_anything_hidden_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="it must have"):
        clean_id(value)


def test_an_id_may_be_long_and_in_any_script() -> None:
    assert clean_id("x" * 200) == "x" * 200
    assert clean_id("задача-7/β:1 (a b)") == "задача-7/β:1 (a b)"
