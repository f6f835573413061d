"""Answer a task's examples by a run's checkpoint, and measure what has targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.config import LoaderConfig, PredictConfig
from model.downstream.prediction_parts import METRICS, PREDICTIONS
from model.downstream.tasks import RETRIEVAL
from model.jobs import PredictJob
from model.progress import Progress
from tasks.errors import StageError, UserError
from tasks.evaluation.evaluate import evaluation_name
from tasks.records import CheckpointRef, fingerprint
from tasks.storage.local_copy import local_checkpoint
from tasks.storage.mirror import PREDICTED, mirrored
from tasks.storage.paths import scores_folder
from tasks.storage.root import Root
from tasks.training.data import ResolvedExamples, resolve_examples
from tasks.training.runs import CheckpointChoice, RunRef, choose_checkpoint, data_for
from tasks.workers.launch import run_module


@dataclass(frozen=True)
class PredictionSpec:
    """A checkpoint of a task's run, and the examples that it answers."""

    run: RunRef
    checkpoint: CheckpointRef
    dataset: str
    split: str
    data: ResolvedExamples
    config: PredictConfig

    @property
    def data_fingerprint(self) -> str:
        return fingerprint(self.data.identity)

    @property
    def folder(self) -> str:
        """Below the root."""
        fingerprints = self.checkpoint.fingerprint, self.data_fingerprint
        return scores_folder(evaluation_name(self.dataset, self.split, *fingerprints, self.run.task))


@dataclass(frozen=True)
class Predicted:
    """Finished predictions: path of the table, metrics where there are targets, and whether all was there before."""

    path: str
    metrics: dict[str, Any] | None
    skipped: bool


def prediction_spec(
    root: Root,
    run: RunRef,
    choice: CheckpointChoice,
    dataset: str,
    split: str,
    config: PredictConfig,
    loader: LoaderConfig,
) -> PredictionSpec:
    """Find the checkpoint and the examples.

    Raises:
        UserError: one of them is not there, or the run is one of retrieval.
    """
    if run.task == RETRIEVAL:
        raise UserError(f"{run.name} ranks captions and images and answers no examples; use `unicoder-vl evaluate`")
    checkpoint = choose_checkpoint(root, run, choice)
    data = resolve_examples(root, data_for(root, checkpoint, dataset, split, loader), run.task)
    return PredictionSpec(run, checkpoint, dataset, split, data, config)


def predict(root: Root, spec: PredictionSpec, on_progress: Callable[[Progress], None]) -> Predicted:
    """Answer every example, or find that done. Killed, it goes on with the parts that are not there yet.

    Raises:
        UserError: features or examples do not fit the checkpoint.
        StageError: it failed; the message names its log.
    """
    with mirrored(root, spec.folder, PREDICTED) as output:
        skipped = (output / PREDICTIONS).exists()
        if not skipped:
            job = PredictJob(
                output_path=str(output),
                checkpoint_path=local_checkpoint(root, spec.checkpoint),
                task=spec.run.task,
                data=spec.data.source,
                predict=spec.config,
            )
            log_path = output / "log.txt"
            run_module("model.predict", job, output / "job.json", log_path, on_progress, num_processes=1)
            if not (output / PREDICTIONS).exists():
                raise StageError(f"model.predict ended well but left no {PREDICTIONS} in {output}; see {log_path}")
        path = output / METRICS
        metrics = json.loads(path.read_bytes()) if path.exists() else None
    return Predicted(root.path(f"{spec.folder}/{PREDICTIONS}"), metrics, skipped)
