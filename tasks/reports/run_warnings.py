"""Warnings that belong wherever a training run's results are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.tars import ShardError
from tasks.reports.matching import matching_warnings
from tasks.storage.paths import run_folder
from tasks.storage.root import Root

_OF_DISTRIBUTIONS = ("mrc-kl",)
"""Objectives whose targets are the detector's distributions over the classes."""


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True)

    features_path: str = ""


class _Pretrain(BaseModel):
    model_config = ConfigDict(frozen=True)

    objectives: dict[str, float] = {}


class _Job(BaseModel):
    """The part of a run's job.json that says what it learned and from which features."""

    model_config = ConfigDict(frozen=True)

    train: _Source = _Source()
    pretrain: _Pretrain = _Pretrain()


def run_warnings(root: Root, runs: Sequence[str]) -> list[str]:
    """A sentence for all that is doubtful about these runs."""
    return matching_warnings(root, runs) + [one for run in runs if (one := _approximation(root, run)) is not None]


def _approximation(root: Root, run: str) -> str | None:
    """That a run learned from distributions of which only the best classes were stored; None where it did not."""
    job = root.read_model(f"{run_folder(run)}/job.json", _Job)
    learned = [] if job is None else [name for name in _OF_DISTRIBUTIONS if job.pretrain.objectives.get(name)]
    folder = None if job is None else re.search(r"features/[0-9a-f]{12}/[^/]+/[^/]+$", job.train.features_path)
    if not learned or folder is None:
        return None
    path = f"{folder[0]}/manifest.json"
    try:
        note = parse_manifest(root.read_bytes(path), path).class_scores_note
    except (FileNotFoundError, ShardError):
        return None  # Whoever reads the features reports it.
    return None if note is None else f"The targets of {learned[0]} in {run} were not the detector's own: {note}"
