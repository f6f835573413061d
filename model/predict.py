"""Answer a task's examples by a finetuned checkpoint: python -m model.predict --config job.json (a `PredictJob`).

The scores are made and kept part by part (`downstream/prediction_parts.py`): a killed process costs the part that it
was at.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.command import run_job
from model.config import PredictConfig
from model.downstream.prediction_parts import (
    METRICS,
    PREDICTIONS,
    Floats,
    PredictionPlan,
    begin_predictions,
    join_parts,
    missing_parts,
    write_part,
    write_predictions,
)
from model.downstream.task import Predictions, Task, trained_task
from model.downstream.tasks import measured_task
from model.errors import InputError
from model.families.fit import check_features
from model.families.model import VisionLanguageModel
from model.jobs import PredictJob
from model.progress import Progress, report
from model.publish import Lock, write_whole
from model.training.checkpoint import load_model, weights_sha256
from model.training.loop import set_up_torch
from model.training.processes import pick_device

_log = logging.getLogger(__name__)


def run_prediction(job: PredictJob) -> int:
    """Compute the missing parts, join all, and measure them where the examples have targets. Returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("model.predict is one process; start it by python -m model.predict, without torchrun")
    set_up_torch(job.predict.num_threads)
    device = pick_device(job.predict.device)
    task = trained_task(job.task)
    if (predictions := task.predictions) is None:
        raise InputError(f"task {job.task!r} answers no table of examples; score it with model.scoring")
    model, vocabulary = load_model(job.checkpoint_path)
    data = task.open(job.data, vocabulary, model.config, "cut")
    check_features(model, data.store, job.checkpoint_path)
    _check_heads(model, task, data, job.checkpoint_path)
    ids = predictions.ids(data)
    folder = Path(job.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / "lock") as lock:
        if not lock.try_hold():
            _log.info("%s is being predicted by another process; waiting for it", folder)
            lock.hold()
        plan = begin_predictions(
            folder,
            PredictionPlan(
                task=job.task,
                examples=len(ids),
                rows=job.predict.part_examples,
                identity={
                    "weights": weights_sha256(Path(job.checkpoint_path)),
                    "vocabulary": vocabulary.digest,
                    **data.identity,
                },
            ),
        )
        if (folder / PREDICTIONS).exists():
            return 0
        _predict(folder, plan, predictions, model.to(device), data, device, job.predict)
        scores = join_parts(folder, plan)
        _write_metrics(folder / METRICS, job.task, predictions.measure(data, scores))
        write_predictions(folder, plan, ids, scores)
    return 0


def _check_heads(model: VisionLanguageModel, task: Task[Any, Any, Any], data: Any, name: str) -> None:
    """Raise InputError unless the checkpoint has the task's heads."""
    for head, config in task.heads(data).items():
        found = model.heads.get(head)
        if found != config:
            what = f"has no head {head!r}, only {', '.join(model.heads) or 'none'}"
            if found is not None:
                what = f"has a head {head!r} of {found.kind} {found.width}, not {config.kind} {config.width}"
            raise InputError(f"{name} {what}: it was not finetuned for {task.name}; name a checkpoint that was")


def _predict(
    folder: Path,
    plan: PredictionPlan,
    predictions: Predictions[Any],
    model: VisionLanguageModel,
    data: Any,
    device: torch.device,
    config: PredictConfig,
) -> None:
    missing = missing_parts(folder, plan)
    total, done, begun = sum(len(plan.rows_of(part)) for part in missing), 0, time.monotonic()
    for part in missing:
        rows = np.array(plan.rows_of(part), np.int64)
        scores: list[Floats] = []
        with torch.inference_mode():
            for start in range(0, len(rows), config.batch_size):
                scores.append(predictions.scores(model, data, rows[start : start + config.batch_size], device))
        found = np.concatenate(scores)
        _check_finite(found, predictions.ids(data), rows)
        write_part(folder, plan, part, found)
        done += len(rows)
        per_second = done / max(time.monotonic() - begun, 1e-9)
        report(Progress(stage="predict", done=done, total=total, unit="examples", per_second=per_second))


def _check_finite(scores: Floats, ids: list[str], rows: Any) -> None:
    """Raise InputError where a score is nan or infinite; -inf marks a choice that an example does not have."""
    wrong = np.flatnonzero((np.isnan(scores) | np.isposinf(scores)).any(1) | np.isneginf(scores).all(1))
    if len(wrong):
        raise InputError(
            f"the scores of example {ids[rows[wrong[0]]]} are not finite: the checkpoint's weights are damaged or "
            "diverged; use another checkpoint"
        )


def _write_metrics(path: Path, task: str, metrics: dict[str, Any] | None) -> None:
    """Write what was measured, where the examples have targets."""
    if metrics is None:
        _log.info("the examples have no targets, so nothing is measured")
        return
    measured_task(task).measures(metrics)
    write_whole(path, json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_job("model.predict", PredictJob, run_prediction))
