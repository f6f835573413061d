"""Warn of a pretraining run whose matching ended no better than a guess (see `model.objectives.matching_watch`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from model.objectives.config import MATCHING
from model.objectives.matching_watch import remedies
from model.progress import STALLED
from tasks.storage.paths import run_folder
from tasks.storage.root import Root


class _Optim(BaseModel):
    model_config = ConfigDict(frozen=True)

    learning_rate: float = 0.0


class _Pretrain(BaseModel):
    model_config = ConfigDict(frozen=True)

    matching: str = ""
    objectives: dict[str, float] = {}
    matching_weight: float = 0.0  # in runs of before, for objectives.vlm
    optim: _Optim = _Optim()

    @property
    def objective(self) -> str:
        """That learns matching; in runs of before it had no name."""
        return next((name for name in MATCHING if name in self.objectives), MATCHING[0])

    @property
    def weight(self) -> float:
        return self.objectives.get(self.objective, self.matching_weight)


class _Job(BaseModel):
    """The part of a run's job.json that says how it learned matching. Other fields come and go with versions."""

    model_config = ConfigDict(frozen=True)

    pretrain: _Pretrain | None = None


def matching_warnings(root: Root, runs: Sequence[str]) -> list[str]:
    """A sentence for each run whose matching, when last judged, was no better than a guess."""
    return [warning for run in runs if (warning := matching_warning(root, run)) is not None]


def matching_warning(root: Root, run: str) -> str | None:
    """The warning, or None where matching learned something, or too few pairs were seen to tell."""
    path = f"{run_folder(run)}/metrics.jsonl"
    if not root.exists(path):
        return None
    judged: dict[str, Any] | None = None
    for line in root.read_bytes(path).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # Still being written; a broken line is named where the curves are drawn.
        if isinstance(row, dict) and STALLED in row:
            judged = row
    if judged is None or not judged[STALLED]:
        return None
    job = root.read_model(f"{run_folder(run)}/job.json", _Job)
    how = job.pretrain if job is not None and job.pretrain is not None else _Pretrain()
    accuracy = judged.get(f"{how.objective}_accuracy")
    share = f" ({100 * accuracy:.1f}% of the pairs right)" if isinstance(accuracy, float) else ""
    return (
        f"Matching of {run} was no better than a guess at step {judged['step']:,}{share}, so retrieval starts from "
        f"chance; {remedies(how.matching, how.objective, how.weight, how.optim.learning_rate)}"
    )
