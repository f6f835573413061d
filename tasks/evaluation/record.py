"""What an evaluation of any task measured, to a row of the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.evaluation.history import append_history, code_version
from tasks.records import CheckpointRef, HistoryRow
from tasks.storage.root import Root, now


def record_evaluation(
    root: Root,
    checkpoint: CheckpointRef,
    task: str,
    metrics: Mapping[str, Any],
    *,
    setting: str,
    variant: str | None,
    seed: int,
    dataset: str,
    split: str,
    data_fingerprint: str,
) -> HistoryRow:
    """Append an evaluation's row, unless it is there; the row that is.

    Args:
        checkpoint: what was evaluated.
        task: a name of `model.downstream.tasks`.
        metrics: what was measured, as the task's description reads it.
        setting: zero-shot, task-specific or pretrain+finetune.
        variant: what an ablation changed.
        seed: of the training run.
        dataset: what it was measured on, with its split.
        data_fingerprint: what the measures depend on beside the weights.
    """
    row = HistoryRow(
        task=task,
        setting=setting,
        variant=variant,
        run=checkpoint.run,
        dataset=dataset,
        split=split,
        seed=seed,
        metrics=dict(metrics),
        stage=checkpoint.stage,
        step=checkpoint.step,
        checkpoint_fingerprint=checkpoint.fingerprint,
        data_fingerprint=data_fingerprint,
        code_version=code_version(),
        created_at=now(),
    )
    return append_history(root, row)
