"""How a training or scoring subprocess tells its parent how far it is: one JSON object a line on stdout."""

from __future__ import annotations

import sys

from pydantic import BaseModel, ConfigDict, Field


class Progress(BaseModel):
    """One report of progress."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    done: int
    total: int
    unit: str = Field(description="steps, pairs, images, ...")
    per_second: float
    metrics: dict[str, float] = {}


def report(progress: Progress) -> None:
    """Print one line for the parent and flush it."""
    sys.stdout.write(progress.model_dump_json() + "\n")
    sys.stdout.flush()
