"""ETags: the digest of what a resource shows, so that a tag changes with whatever would be seen.

A GET may name what the caller has (`If-None-Match`), a change what it was decided upon (`If-Match`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from openclaw_billing.errors import StaleVersion
from openclaw_billing.web.auth import header

DIGEST_BYTES = 12

V = TypeVar("V", bound=BaseModel)

_TAG = re.compile(r'(W/)?("[^"]*")')


def etag_of(view: BaseModel) -> str:
    return f'"{hashlib.blake2b(view.model_dump_json().encode(), digest_size=DIGEST_BYTES).hexdigest()}"'


def tagged(response: Response, view: V) -> V:
    """The answer, which is the resource as it is now, with its tag."""
    response.headers["ETag"] = etag_of(view)
    return view


def unless_known(request: Request, response: Response, view: V) -> V | Response:
    """The resource with its tag, or 304 where `If-None-Match` says that the caller has it."""
    tag = etag_of(view)
    named = header(request, b"if-none-match")
    if named is not None and (named.strip() == "*" or tag in [found[1] for found in _TAG.findall(named)]):
        return Response(status_code=304, headers={"ETag": tag})
    return tagged(response, view)


def condition_of(request: Request) -> Callable[[Callable[[], BaseModel]], None]:
    """A check of the resource as it is against `If-Match`: to be made where nobody can change it meanwhile.

    Raises, when it is called:
        StaleVersion: it is none of those that the caller names.
    """
    named = header(request, b"if-match")
    # Weak tags never match: they do not promise that all is as it was.
    tags = [] if named is None else [tag for weak, tag in _TAG.findall(named) if not weak]

    def check(current: Callable[[], BaseModel]) -> None:
        if named is None:
            return
        tag = etag_of(current())
        if named.strip() != "*" and tag not in tags:
            raise StaleVersion

    return check
