"""ETags: the record's version as a strong tag."""

from __future__ import annotations

from fastapi import Request


def etag_of(version: int) -> str:
    return f'"{version}"'


def not_modified(request: Request, tag: str) -> bool:
    """Whether `If-None-Match` names the tag, so that the caller has what would be sent."""
    named = request.headers.get("if-none-match")
    if named is None:
        return False
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in named.split(","))
