"""One process of generated requests: `python -m reliability.generated COUNT SEED`; what came of them as JSON.

What schemathesis makes of our OpenAPI is sent to the gateway in this process, as a client and as an admin. Whatever
is answered with an error of the server's, or with more than two KiB of refusal, is wrong.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from reliability.strangers import TOKEN, Asker, app_in_memory

ROUNDS_MAX = 12
REFUSAL_BYTES_MAX = 2048


class Requests:
    """They are sent, and what is answered is counted."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._key_text = asker.new_key()
        self.classes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send(self, admin: bool, case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://testserver")
        who = {"X-Auth-Token": TOKEN} if admin else {"X-Client-Key": self._key_text}
        request["headers"] = {**(request.get("headers") or {}), **who}
        request.pop("cookies", None)
        try:
            answer = self._asker.request(**request)
        except (UnicodeError, ValueError, TypeError):
            # What no HTTP client can send.
            return
        self.classes[f"{answer.status_code // 100}xx"] += 1
        length = len(answer.content)
        if answer.status_code >= 500 or (answer.status_code >= 400 and length > REFUSAL_BYTES_MAX):
            self.wrong.append(f"{request['method']} {request['url']}: {answer.status_code}, {length} bytes")


def send(count: int, seeded: int) -> dict[str, Any]:
    with app_in_memory() as app, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"X-Auth-Token": TOKEN})
        requests = Requests(Asker(app))
        operations = [found.ok() for found in schema.get_all_operations()]
        ways = list(itertools.product(operations, GenerationMode))
        for number in range(ROUNDS_MAX):
            # Some operations have no more than a few requests in them: the others make up for it.
            left = count - requests.classes.total()
            if left <= 0:
                break
            for operation, mode in ways:
                case = operation.as_strategy(generation_mode=mode)
                call = partial(requests.send, operation.path.startswith("/api/admin"))
                # Where nothing can be wrong, nothing wrong can be made up.
                with suppress(Unsatisfiable):
                    _tried(case, call, left // len(ways) + 1, seeded * ROUNDS_MAX + number)
    return {"classes": requests.classes, "wrong": requests.wrong, "operations": len(operations)}


def _tried(case: Any, call: Callable[[Any], None], times: int, seeded: int) -> None:
    def sending(case: Any) -> None:
        call(case)

    chosen = settings(
        max_examples=times,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    chosen(seed(seeded)(given(case=case)(sending)))()


if __name__ == "__main__":
    print(json.dumps(send(int(sys.argv[1]), int(sys.argv[2]))))
