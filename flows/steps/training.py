"""The steps of a training run, for a Prefect task or this process alone."""

from __future__ import annotations

import logging

from flows.params.training import FinetuneParams, PretrainParams
from flows.views.progress import Bar, ProgressLog
from tasks.records import CheckpointRef
from tasks.reports.long_texts import dropped_captions
from tasks.reports.matching import matching_warning
from tasks.storage.root import Root
from tasks.training.run_name import run_name
from tasks.training.train import train

_pretrain_log = logging.getLogger("flows.pretrain")
_finetune_log = logging.getLogger("flows.finetune")


def run_pretrain(params: PretrainParams, bar: Bar) -> CheckpointRef:
    """Pretrain, or find the finished run."""
    root, spec = Root(params.root_uri), params.spec()
    run = run_name(root, spec)
    with bar(run) as show:
        follow = ProgressLog(_pretrain_log, run, "steps", show=show).follow
        checkpoint = train(root, spec, follow, params.nodes)
    _log_end(_pretrain_log, root, run, checkpoint)
    if (warning := matching_warning(root, run)) is not None:
        _pretrain_log.warning("%s", warning)
    return checkpoint


def run_finetune(params: FinetuneParams, bar: Bar) -> CheckpointRef:
    """Finetune, or find the finished run."""
    root, spec = Root(params.root_uri), params.spec()
    run = run_name(root, spec)
    label = f"{run} ({params.setting})"
    with bar(run) as show:
        follow = ProgressLog(_finetune_log, label, "steps", show=show).follow
        checkpoint = train(root, spec, follow, params.nodes)
    _log_end(_finetune_log, root, label, checkpoint)
    return checkpoint


def _log_end(log: logging.Logger, root: Root, label: str, checkpoint: CheckpointRef) -> None:
    log.info("%s: %s, %d steps", label, "already done" if checkpoint.skipped else "done", checkpoint.step)
    for note in dropped_captions(root, [checkpoint.run]):
        log.info("%s", note)
