"""The server of `naive`: what a first version of client billing looks like."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException

from benchmarks.subjects.models import IntakeRequest, IntakeResponse, queued
from benchmarks.subjects.naive import CLIENTS_FILE

CLIENTS_PATH = os.path.join(os.environ["BENCHMARK_DATA_DIR"], CLIENTS_FILE)

app = FastAPI()


@app.post("/api/intake", response_model=IntakeResponse)
async def submit_intake(
    req: IntakeRequest, x_client_key: Annotated[str | None, Header()] = None
) -> IntakeResponse:
    client = _client_by_key(x_client_key)
    if client is None:
        raise HTTPException(status_code=401, detail="Invalid or inactive API key")
    if client["credits_remaining"] <= 0:
        raise HTTPException(status_code=403, detail="Monthly job limit reached")
    return queued(_deduct(client["client_id"]))


def _load() -> dict[str, dict[str, Any]]:
    with open(CLIENTS_PATH) as file:
        clients: dict[str, dict[str, Any]] = json.load(file)
    return clients


def _client_by_key(key_text: str | None) -> dict[str, Any] | None:
    return next((each for each in _load().values() if each["api_key"] == key_text and each["active"]), None)


def _deduct(client_id: str) -> int:
    clients = _load()
    client = clients[client_id]
    client["credits_remaining"] -= 1
    client["updated_at"] = datetime.now(UTC).isoformat()
    with open(CLIENTS_PATH, "w") as file:
        json.dump(clients, file)
    remaining: int = client["credits_remaining"]
    return remaining
