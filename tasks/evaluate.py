"""Checkpoint and retrieval split to scores, metrics, and one row of the history."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, fsum
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from model.config import ScoreJob, ScoringConfig
from model.progress import Progress
from tasks.history import append_history, code_version
from tasks.launch import run_module
from tasks.records import CheckpointRef, HistoryRow, fingerprint
from tasks.report import SettingRow
from tasks.storage import Root, now, scores_folder
from tasks.train import DataSpec, ResolvedData, resolve_data

SCORES_FORMAT = "scores/1"
RECALL_DEPTHS = (1, 5, 10)


class _Metrics(BaseModel):
    """The part of metrics.json that the table shows."""

    model_config = ConfigDict(frozen=True)

    image_to_text_recall: dict[int, float]
    text_to_image_recall: dict[int, float]
    images: int
    captions: int


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its history row, its row of the table, and whether the scores stood already.

    `captions_per_image` has one count per scored image: chance follows from it.
    """

    row: HistoryRow
    table_row: SettingRow
    captions_per_image: tuple[int, ...]
    skipped: bool


def evaluate(
    root: Root,
    setting: str,
    checkpoint: CheckpointRef,
    data: DataSpec,
    scoring: ScoringConfig,
    seed: int,
    on_progress: Callable[[Progress], None],
) -> Evaluation:
    """Score every image of a split with every caption and append the metrics to the history, unless that was done.

    Args:
        setting: the row of the table: zero-shot, task-specific or pretrain+finetune.
        seed: of the training run, for the history.

    Raises:
        UserError: features are missing or do not fit the checkpoint.
        StageError: scoring failed; the message names its log.
    """
    resolved = resolve_data(root, data)
    data_fingerprint = scored_data_fingerprint(resolved, scoring)
    folder = scores_folder(evaluation_name(data.dataset, data.split, checkpoint.fingerprint, data_fingerprint))
    skipped = root.exists(f"{folder}/metrics.json") and root.exists(f"{folder}/scores.npz")
    if not skipped:
        output = root.local(folder, "evaluation")
        job = ScoreJob(output_path=str(output), checkpoint_path=checkpoint.uri, data=resolved.source, scoring=scoring)
        run_module("model.scoring", job, output / "job.json", output / "log.txt", on_progress)
    metrics_json = json.loads(root.read_bytes(f"{folder}/metrics.json"))
    row = append_history(
        root,
        HistoryRow(
            setting=setting,
            run=checkpoint.run,
            dataset=data.dataset,
            split=data.split,
            seed=seed,
            metrics=metrics_json,
            checkpoint_fingerprint=checkpoint.fingerprint,
            data_fingerprint=data_fingerprint,
            code_version=code_version(),
            created_at=now(),
        ),
    )
    return Evaluation(
        row=row,
        table_row=table_row(row),
        captions_per_image=_captions_per_image(root.local(f"{folder}/scores.npz", "evaluation")),
        skipped=skipped,
    )


def evaluation_name(dataset: str, split: str, checkpoint_fingerprint: str, data_fingerprint: str) -> str:
    """Folder name under ROOT/scores of an evaluation: its scores depend on the weights and the data, nothing else."""
    scored = {"format": SCORES_FORMAT, "weights": checkpoint_fingerprint, "data": data_fingerprint}
    return f"{dataset}-{split}-{fingerprint(scored)[:12]}"


def scored_data_fingerprint(data: ResolvedData, scoring: ScoringConfig) -> str:
    """What an evaluation's scores depend on beside the weights.

    Of the scoring config, precision alone enters: batch size and device change rounding at most.
    """
    return fingerprint({**data.identity, "precision": scoring.precision})


def table_row(row: HistoryRow) -> SettingRow:
    """A history row as the table shows it."""
    metrics = _Metrics.model_validate(row.metrics)
    return SettingRow(
        setting=row.setting,
        image_to_text=metrics.image_to_text_recall,
        text_to_image=metrics.text_to_image_recall,
        images=metrics.images,
        captions=metrics.captions,
        seed=row.seed,
    )


def chance_row(captions_per_image: Sequence[int]) -> SettingRow:
    """Expected recall of a ranking drawn at random: what knowing nothing scores.

    Of M captions, an image has c true ones. A random order of them has none of the c among its first k with
    probability C(M - c, k) / C(M, k) (hypergeometric); so image-to-text recall is the mean over images of one minus
    that. A caption has one true image among N: text-to-image recall is k / N. Both are exact.

    Args:
        captions_per_image: c of every image, each at least 1.
    """
    images, captions = len(captions_per_image), sum(captions_per_image)
    if not images or min(captions_per_image) < 1:
        raise ValueError(f"every image needs a caption, got counts {list(captions_per_image)[:5]}")

    def image_to_text(k: int) -> float:
        depth = min(k, captions)
        orders = comb(captions, depth)
        return fsum((orders - comb(captions - c, depth)) / orders for c in captions_per_image) / images

    return SettingRow(
        setting="chance",
        image_to_text={k: image_to_text(k) for k in RECALL_DEPTHS},
        text_to_image={k: min(k, images) / images for k in RECALL_DEPTHS},
        images=images,
        captions=captions,
        seed=None,
    )


def _captions_per_image(scores_path: Path) -> tuple[int, ...]:
    with np.load(scores_path) as scores:
        counts = np.bincount(scores["caption_image"])
    return tuple(int(count) for count in counts)
