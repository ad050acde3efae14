"""The server of `sqlite` and `sqlite-grouped`: the endpoint awaits one writer thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, NamedTuple

from fastapi import FastAPI, Header, HTTPException

from benchmarks.subjects.models import IntakeRequest, IntakeResponse, queued
from benchmarks.subjects.sqlite import connect, digest

CHARGE = (
    "UPDATE clients SET credits = credits - 1 WHERE digest = ? AND active AND credits > 0 RETURNING credits"
)


class Charge(NamedTuple):
    digest: bytes
    answer: asyncio.Future[int | None]


class Writer:
    """Commits charges in a thread and answers on the loop, once per batch."""

    def __init__(self, data_dir: Path, batch_max: int, loop: asyncio.AbstractEventLoop) -> None:
        self._database = connect(data_dir)
        self._batch_max = batch_max
        self._loop = loop
        self._waiting: SimpleQueue[Charge | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    async def charge(self, key_digest: bytes) -> int | None:
        """The credits left, or None when the key is unknown or has none."""
        answer: asyncio.Future[int | None] = self._loop.create_future()
        self._waiting.put(Charge(key_digest, answer))
        return await answer

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._database.close()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self._batch_max:
                try:
                    more = self._waiting.get_nowait()
                except Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                batch.append(more)
            self._loop.call_soon_threadsafe(_answer, batch, self._commit(batch))

    def _commit(self, batch: list[Charge]) -> list[int | None]:
        self._database.execute("BEGIN IMMEDIATE")
        rows = [self._database.execute(CHARGE, (charge.digest,)).fetchone() for charge in batch]
        self._database.execute("COMMIT")
        return [row[0] if row else None for row in rows]


def _answer(batch: list[Charge], balances: list[int | None]) -> None:
    for charge, balance in zip(batch, balances, strict=True):
        if not charge.answer.done():
            charge.answer.set_result(balance)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.writer = Writer(
        Path(os.environ["BENCHMARK_DATA_DIR"]),
        int(os.environ["BENCHMARK_BATCH_MAX"]),
        asyncio.get_running_loop(),
    )
    yield
    app.state.writer.close()


app = FastAPI(lifespan=_lifespan)


@app.post("/api/intake", response_model=IntakeResponse)
async def submit_intake(
    req: IntakeRequest, x_client_key: Annotated[str | None, Header()] = None
) -> IntakeResponse:
    balance = await app.state.writer.charge(digest(x_client_key or ""))
    if balance is None:
        raise HTTPException(status_code=403, detail="Unknown key, or no credits left")
    return queued(balance)
