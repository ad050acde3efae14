"""Text: what strangers may write into names, reasons, descriptions, addresses and ids."""

from __future__ import annotations

import re

EMAIL_LENGTH_MAX = 254
EMAIL_LOCAL_LENGTH_MAX = 64
ID_LENGTH_MAX = 200

# Controls forge log lines, bidi controls make text read otherwise than it is, surrogates cannot be written.
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_HIDDEN = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff"
_REFUSED = re.compile(f"[{_CONTROLS}{_HIDDEN}]")
_REFUSED_IN_LINES = re.compile(f"[{_HIDDEN}\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
_LOCAL = re.compile(r"(?!=)[A-Za-z0-9!#$%'*+/=?^_~-]+(?:\.[A-Za-z0-9!#$%'*+/=?^_~-]+)*")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)


def clean_text(value: str, length_max: int, *, multiline: bool = False) -> str:
    """The text without blanks around it; `multiline` admits line feeds and tabs.

    Raises:
        ValueError: it is blank, too long, or has characters that do not show as what they are.
    """
    refused = _REFUSED_IN_LINES if multiline else _REFUSED
    # Nearly all text is plain, and asking for that is much cheaper than the search.
    if not (value.isascii() and value.isprintable()) and refused.search(value):
        raise ValueError("it must not have control characters")
    text = value.strip()
    # ASCII without controls shows as what it is; only other scripts have characters that show nothing.
    if not (text and text.isascii()) and not any(each.isprintable() and not each.isspace() for each in text):
        raise ValueError("it must not be blank")
    if len(text) > length_max:
        raise ValueError(f"it must have at most {length_max} characters")
    return text


def clean_email(value: str) -> str:
    """The address as it was written: a bare `name@example.com`, nothing around it.

    Raises:
        ValueError: it is no such address.
    """
    local, _, domain = value.partition("@")
    fits = len(value) <= EMAIL_LENGTH_MAX and len(local) <= EMAIL_LOCAL_LENGTH_MAX
    if not (fits and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain)):
        raise ValueError("it must be an e-mail address such as name@example.com")
    return value


def email_key(value: str) -> str:
    """What makes two addresses the same: everything but the case."""
    return value.casefold()


def clean_id(value: str) -> str:
    """An id of the caller's making, as it is.

    Raises:
        ValueError: it is empty, too long, or has characters that do not show.
    """
    if not 1 <= len(value) <= ID_LENGTH_MAX:
        raise ValueError(f"it must have 1 to {ID_LENGTH_MAX} characters")
    if not value.isprintable():
        raise ValueError("it must have visible characters only")
    return value
