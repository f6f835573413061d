"""Finetuning that starts from a run that is named, whoever trained it."""

from __future__ import annotations

from flows.params.training import FinetuneParams
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
