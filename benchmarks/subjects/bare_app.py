"""The server of `bare`."""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.subjects.models import IntakeRequest, IntakeResponse, queued

app = FastAPI()


@app.post("/api/intake", response_model=IntakeResponse)
async def submit_intake(req: IntakeRequest) -> IntakeResponse:
    return queued()
