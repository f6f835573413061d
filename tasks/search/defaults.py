"""Defaults of a search: run and split."""

from __future__ import annotations

import logging

from tasks.errors import UserError
from tasks.records import CheckpointRef, Stage
from tasks.storage.root import Root
from tasks.training.runs import RunRef, checkpoint_extractor, features_on, find_run, run_names

log = logging.getLogger("tasks.search")


def newest_run(root: Root) -> RunRef:
    """The complete finetuning run that ended last, of the pretrained ones if there are any.

    Raises:
        UserError: there is none.
    """
    runs = [find_run(root, name) for name in run_names(root)]
    ended = [
        (run.setting == "pretrain+finetune", root.modified(f"{run.folder}/final.json"), run.name, run)
        for run in runs
        if run.stage is Stage.FINETUNE and root.exists(f"{run.folder}/final.json")
    ]
    if not ended:
        known = f"; there are {', '.join(run.name for run in runs)}" if runs else ""
        raise UserError(f"no finetuning run is complete under {root.uri}: name a run with --run{known}")
    run = max(ended)[-1]
    if len(ended) > 1:
        log.info("%s is taken, the newest complete one of %d finetuning runs (%s)", run.name, len(ended), run.setting)
    return run


def choose_split(root: Root, checkpoint: CheckpointRef, name: str | None) -> tuple[str, str]:
    """(dataset, split) by name, or the only one with features that the checkpoint reads."""
    if name is None:
        known = features_on(root, checkpoint_extractor(root, checkpoint))
        if len(known) != 1:
            there = f"choose one of {', '.join(known)}" if known else "there are none; run: unicoder-vl extract"
            raise UserError(
                f"name the DATASET/SPLIT to search, which {checkpoint.run} has to have features of: {there}"
            )
        (name,) = known
    dataset, _, split = name.partition("/")
    if not dataset or not split or "/" in split:
        raise UserError(f"{name!r} is not DATASET/SPLIT, such as retrieval/test: name what is to be searched")
    return dataset, split
