"""What POST /api/intake takes and gives: the same models for every subject served from this package."""

from __future__ import annotations

from enum import StrEnum
from uuid import uuid4

from pydantic import BaseModel, Field


class TaskType(StrEnum):
    FEATURE_BUILD = "feature_build"
    BUG_FIX = "bug_fix"
    SECURITY_AUDIT = "security_audit"
    CODE_REVIEW = "code_review"
    DEPLOYMENT = "deployment"
    FULL_PROJECT = "full_project"
    OTHER = "other"


class Priority(StrEnum):
    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class IntakeRequest(BaseModel):
    project_name: str = Field(min_length=1, max_length=200)
    description: str = Field(min_length=1, max_length=10_000)
    task_type: TaskType
    priority: Priority = Priority.P2
    budget_limit: float | None = Field(default=None, ge=0)
    contact_email: str | None = Field(default=None, max_length=254)


class IntakeResponse(BaseModel):
    job_id: str
    status: str
    estimated_start: str
    message: str
    credits_remaining: int | None = None


def queued(credits_remaining: int | None = None) -> IntakeResponse:
    """The answer to an accepted job."""
    return IntakeResponse(
        job_id=str(uuid4()),
        status="queued",
        estimated_start="within 4 hours",
        message="Job accepted",
        credits_remaining=credits_remaining,
    )
