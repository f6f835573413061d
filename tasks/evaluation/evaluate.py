"""Evaluate a checkpoint on a retrieval split: scores, metrics, and one row of the history."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.measures import measured
from model.downstream.retrieval.scores import (
    FIRST_SCORES,
    METRICS,
    PLAN,
    SCORES_FORMAT,
    Scores,
    missing_blocks,
    read_plan,
)
from model.errors import InputError
from model.jobs import ScoreJob
from model.progress import Progress
from model.training.precision import is_wide
from tasks.errors import StageError, UserError
from tasks.evaluation.history import find_row, read_history
from tasks.evaluation.record import record_evaluation
from tasks.evaluation.retrieval.chance import chance_row
from tasks.evaluation.retrieval.ground_truth import measure_ground_truths, unscored_text
from tasks.evaluation.retrieval.setting_row import SettingRow, positives_row, setting_rows
from tasks.records import FIRST_TASK, CheckpointRef, HistoryRow, Record, fingerprint
from tasks.storage.local_copy import local_checkpoint, local_copy, with_local_captions
from tasks.storage.mirror import SCORES, mirrored
from tasks.storage.paths import scores_folder
from tasks.storage.root import Root
from tasks.training.data import ResolvedData
from tasks.training.train import num_processes
from tasks.workers import tether
from tasks.workers.launch import run_module


@dataclass(frozen=True)
class EvaluationSpec:
    """A checkpoint and the split to evaluate it on.

    `setting` is the row of the table (zero-shot, task-specific or pretrain+finetune), `seed` that of the training run,
    `variant` what an ablation changed.
    """

    setting: str
    seed: int
    checkpoint: CheckpointRef
    dataset: str
    split: str
    data: ResolvedData
    scoring: ScoringConfig
    variant: str | None = None
    positives: tuple[str, ...] = ()
    """Files of other ground truths, see `tasks.evaluation.retrieval.ground_truth`: the scores do not depend on them."""
    positives_ids: str | None = None

    @property
    def data_fingerprint(self) -> str:
        return scored_data_fingerprint(self.data, self.scoring)

    @property
    def name(self) -> str:
        """Folder name under ROOT/scores."""
        return evaluation_name(self.dataset, self.split, self.checkpoint.fingerprint, self.data_fingerprint)


class ProtocolTable(Record):
    """One protocol's measures, and the chance to compare them with."""

    chance: SettingRow
    row: SettingRow


class PositivesTable(Record):
    """Measures of the scores by another ground truth."""

    row: SettingRow
    path: str = Field(description="positives-DIGEST.json: all of it")
    unscored: str = Field(default="", description="which true candidates were not scored, a line; empty: none")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its history row, its tables, the main protocol's first, and whether all was there before."""

    row: HistoryRow
    tables: tuple[ProtocolTable, ...]
    skipped: bool
    positives: tuple[PositivesTable, ...] = ()


def evaluate(root: Root, spec: EvaluationSpec, on_progress: Callable[[Progress], None]) -> Evaluation:
    """Score every image of a split with every caption and append the metrics to the history, unless that was done.

    Killed, it goes on with the blocks of scores that are not there yet. Other protocols than those measured cost no
    new scores.

    Raises:
        UserError: features do not fit the checkpoint, or a file of the scores is damaged.
        StageError: scoring failed; the message names its log.
    """
    spec = with_precision(root, spec)
    protocols = spec.scoring.protocols
    with mirrored(root, scores_folder(spec.name), SCORES) as output:
        metrics = _stored_metrics(output, protocols)
        skipped = metrics is not None
        if metrics is None:
            metrics = _score(root, spec, output, on_progress)
        approximate = measured(metrics)[0].approximate
        by_positives = measure_ground_truths(
            root, output, spec.dataset, spec.split, spec.positives, spec.positives_ids, approximate
        )
    row = record_evaluation(
        root,
        spec.checkpoint,
        FIRST_TASK,
        metrics,
        setting=spec.setting,
        variant=spec.variant,
        seed=spec.seed,
        dataset=spec.dataset,
        split=spec.split,
        data_fingerprint=spec.data_fingerprint,
    )
    counts = _captions_per_image(output)
    tables = tuple(ProtocolTable(chance=chance_row(counts, shown.protocol), row=shown) for shown in setting_rows(row))
    positives = tuple(
        PositivesTable(
            row=positives_row(row, found),
            path=root.path(f"{scores_folder(spec.name)}/{name}"),
            unscored=unscored_text(found),
        )
        for name, found in by_positives.items()
    )
    return Evaluation(row=row, tables=tables, skipped=skipped, positives=positives)


def _score(root: Root, spec: EvaluationSpec, output: Path, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Make the scores in a folder of this machine, and measure them."""
    job = ScoreJob(
        output_path=str(output),
        checkpoint_path=local_checkpoint(root, spec.checkpoint),
        data=with_local_captions(root, spec.data.source),
        scoring=spec.scoring,
    )
    processes = num_processes(spec.scoring)
    run_module("model.scoring", job, output / "job.json", output / "log.txt", on_progress, num_processes=processes)
    metrics = _stored_metrics(output, spec.scoring.protocols)
    if metrics is None:
        raise StageError(f"model.scoring ended well but left no whole scores in {output}; see {output / 'log.txt'}")
    return metrics


def find_evaluation(root: Root, spec: EvaluationSpec) -> HistoryRow | None:
    """The history's row of an evaluation, if there is one; in any precision where that is auto."""
    for one in _in_each_precision(spec):
        row = find_row(root, one.setting, one.checkpoint.fingerprint, one.data_fingerprint, one.scoring.protocols)
        if row is not None:
            return row
    return None


def with_precision(root: Root, spec: EvaluationSpec) -> EvaluationSpec:
    """The evaluation with its precision decided, where that is auto.

    It decides what the scores are, so it is part of their name; and the same command, on whichever machine, finds them
    again: complete ones before begun ones, fp32 before bf16. New ones are made as those before, of these weights or at
    least of these features and captions, for their numbers are to be compared. Only then does the machine decide.

    Raises:
        UserError: the checkpoint is gone.
        StageError: the machine cannot be asked.
    """
    choices = _in_each_precision(spec)
    if len(choices) == 1:
        return spec
    for name in (METRICS, PLAN, f"{FIRST_SCORES}/{PLAN}"):
        for one in choices:
            path = f"{scores_folder(one.name)}/{name}"
            if root.exists(path) or local_copy(root).exists(path):
                return one
    of_data = {one.data_fingerprint: one for one in choices}
    rows = [row for row in read_history(root) if row.data_fingerprint in of_data]
    if rows:
        own = [row for row in rows if row.checkpoint_fingerprint == spec.checkpoint.fingerprint]
        return of_data[(own or rows)[-1].data_fingerprint]
    taken = _machines_precision(local_checkpoint(root, spec.checkpoint), spec.scoring.device)
    return next(one for one in choices if one.scoring.precision == taken)


def _in_each_precision(spec: EvaluationSpec) -> list[EvaluationSpec]:
    """The evaluation itself, or for precision auto the two that it may become, fp32 first."""
    if spec.scoring.precision != "auto":
        return [spec]
    return [
        replace(spec, scoring=spec.scoring.model_copy(update={"precision": precision}))
        for precision in ("fp32", "bf16")
    ]


def _machines_precision(checkpoint: str, device: str) -> str:
    """The precision in which this machine computes a checkpoint."""
    try:
        hidden_size = int(json.loads((Path(checkpoint) / "config.json").read_bytes())["encoder"]["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return "fp32"  # It is no checkpoint, as whoever is to load it will say.
    return _ask_machine(device, hidden_size) if is_wide(hidden_size) else "fp32"


def _ask_machine(device: str, hidden_size: int) -> str:
    """Ask torch, in a process of its own: importing it takes seconds, and it may take a GPU."""
    command = tether.command("model.training.precision", device, str(hidden_size))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    answer = done.stdout.strip()
    if done.returncode or answer not in ("fp32", "bf16"):
        why = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise StageError(f"torch does not say whether {device} computes bf16 ({why}); set scoring.precision=fp32")
    return answer


def evaluation_name(
    dataset: str, split: str, checkpoint_fingerprint: str, data_fingerprint: str, task: str = FIRST_TASK
) -> str:
    """Folder name under ROOT/scores of an evaluation: of its task, weights and data, nothing else."""
    scored = {"format": SCORES_FORMAT, "weights": checkpoint_fingerprint, "data": data_fingerprint}
    if task != FIRST_TASK:
        scored["task"] = task
    return f"{dataset}-{split}-{fingerprint(scored)[:12]}"


def scored_data_fingerprint(data: ResolvedData, scoring: ScoringConfig) -> str:
    """The fingerprint of all but the weights that an evaluation's scores depend on.

    Fields of the scoring config that are no part of its identity change rounding at most, or what is measured on the
    scores. A precision of auto has to be decided before, see `with_precision`.
    """
    assert scoring.precision != "auto"
    identity = scoring.identity()
    if scoring.shortlist is not None:
        identity["shortlist"] = fingerprint(identity["shortlist"])
    return fingerprint({**data.identity, **identity})


def _stored_metrics(folder: Path, protocols: Sequence[str]) -> dict[str, Any] | None:
    """The metrics of a folder's scores, if they are of exactly these protocols and every block is there.

    Raises:
        UserError: a file cannot be read.
    """
    path = folder / METRICS
    if not path.exists():
        return None
    try:
        metrics: dict[str, Any] = json.loads(path.read_bytes())
        found = [one.protocol for one in measured(metrics)]
        whole = not missing_blocks(folder, read_plan(folder))
    except InputError as error:
        raise UserError(str(error)) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} holds no metrics; remove it and evaluate again: finished scores are kept") from error
    return metrics if whole and found == list(protocols) else None


def _captions_per_image(folder: Path) -> tuple[int, ...]:
    try:
        counts = np.bincount(Scores(folder).caption_image)
    except InputError as error:
        raise UserError(str(error)) from error
    return tuple(int(count) for count in counts)
