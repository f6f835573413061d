"""Finetuning that starts from a run that is named, whoever trained it."""

from __future__ import annotations

import re

from flows.params.experiment import RebuildParams
from flows.params.training import FinetuneParams
from model.config import FinetuneLoopConfig
from model.downstream.tasks import RETRIEVAL
from tasks.errors import UserError
from tasks.storage.root import Root
from tasks.training.runs import checkpoint_encoder, choose_checkpoint, find_run


def started_from(params: FinetuneParams, run: str) -> FinetuneParams:
    """The same finetuning from the result of this run, with its encoder, and its vocabulary under a local root.

    Raises:
        UserError: there is no such run, or it has no result; the parameters are of training from scratch.
    """
    if params.finetune.start == "scratch":
        raise UserError(f"--from {run} names a run to start from, but this training starts from scratch; leave one out")
    root = Root(params.root_uri)
    found = find_run(root, run)
    checkpoint = choose_checkpoint(root, found, "result")
    changes = {"pretraining": None, "start_run": found.name, "encoder": checkpoint_encoder(root, checkpoint)}
    if root.is_local:
        changes["vocabulary_path"] = checkpoint.uri
    return FinetuneParams.model_validate(params.model_dump() | changes)


def task_finetuning(params: RebuildParams, task: str, on: str | None, setting: str) -> FinetuneParams:
    """Finetuning for a task other than retrieval: an experiment's model, detector and loop, and the task's own loss.

    Validation is off: what retrieval looks at is not there.

    Raises:
        UserError: there is no such task, or --on or --setting is wrong.
    """
    if task == RETRIEVAL:
        raise UserError("--on names the examples of another task than retrieval; give --task, or leave --on out")
    if (found := re.fullmatch(r"([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)", on or "")) is None:
        raise UserError(f"--task {task} needs --on DATASET/SPLIT, whose examples are learnt from; it is {on!r}")
    if setting not in (known := ("pretrain+finetune", "task-specific")):
        raise UserError(f"there is no setting {setting!r} here; known are {', '.join(known)}")
    scratch = setting == "task-specific"
    shared = set(FinetuneLoopConfig.model_fields) - {"validation_steps", "keep_best", "best_is"}
    loop = params.finetune.model_dump(include=shared) | {"start": "scratch" if scratch else "pretrained"}
    retrieval = params.for_finetune()
    changes = {
        "task": task,
        "finetune": loop,
        "dataset": found[1],
        "split": found[2],
        "validation_split": None,
        "pretraining": None if scratch else params.for_pretrain().model_dump(),
    }
    return FinetuneParams.model_validate(retrieval.model_dump(exclude={"finetune"}) | changes)
