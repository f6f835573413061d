"""Progress of a training or scoring subprocess for its parent: one JSON object a line on stdout."""

from __future__ import annotations

import sys

from pydantic import BaseModel, ConfigDict, Field

STALLED = "matching_stalled"
"""In metrics.jsonl, of each line that is judged: 1 where matching is no better than a guess, else 0."""

DROPPED = "dropped_captions"
"""In metrics.jsonl: captions that are too long to be learnt from; absent where there are none."""


class Progress(BaseModel):
    """One report of progress."""

    # Numbers that are not finite too come through as they are; as null, the default, the parent could not read them.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    stage: str
    done: int
    total: int
    unit: str = Field(description="steps, pairs, images, ...")
    per_second: float
    metrics: dict[str, float] = {}
    note: str = Field(default="", description="one line that people are told at once")


class Ending(BaseModel):
    """The reason of a process that ends with its work undone.

    Under torchrun, whose exit status is always 1, the parent learns it from this alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: str = Field(description="one sentence: what, where, what to do")
    bad_input: bool = Field(description="the user can mend it")


def report(message: Progress | Ending) -> None:
    """Print one line for the parent and flush it."""
    sys.stdout.write(message.model_dump_json() + "\n")
    sys.stdout.flush()
