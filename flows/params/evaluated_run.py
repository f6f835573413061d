"""Finds the checkpoint and the features that an evaluation's parameters name."""

from __future__ import annotations

from flows.params.evaluation import EvaluateParams
from model.downstream.tasks import RETRIEVAL
from tasks.evaluation.evaluate import EvaluationSpec
from tasks.evaluation.predict import PredictionSpec, prediction_spec
from tasks.records import CheckpointRef
from tasks.storage.root import Root
from tasks.training import runs
from tasks.training.data import DataSpec, ResolvedData, resolve_data
from tasks.training.run_name import find_trained, run_name
from tasks.training.runs import RunRef


def evaluation_spec(root: Root, params: EvaluateParams) -> EvaluationSpec:
    """Find the checkpoint, and the features of the split that it reads.

    Raises:
        UserError: one of them is not there.
    """
    run, checkpoint, data = _named(root, params, params.run) if params.run is not None else _described(root, params)
    return EvaluationSpec(
        setting=run.setting,
        seed=run.seed,
        checkpoint=checkpoint,
        dataset=params.dataset,
        split=params.split,
        data=data,
        scoring=params.scoring,
        variant=params.variant,
        positives=params.positives,
        positives_ids=params.positives_ids,
    )


def _named(root: Root, params: EvaluateParams, name: str) -> tuple[RunRef, CheckpointRef, ResolvedData]:
    """A run that is named knows its own seed, setting and features."""
    run = runs.find_run(root, name)
    checkpoint = runs.choose_checkpoint(root, run, params.checkpoint)
    return run, checkpoint, runs.data_for(root, checkpoint, params.dataset, params.split, params.loader)


def _described(root: Root, params: EvaluateParams) -> tuple[RunRef, CheckpointRef, ResolvedData]:
    described = params.pretraining if params.setting == "zero-shot" else params.finetuning
    assert params.setting is not None and params.extractor is not None and described is not None
    spec = described.spec()
    run = RunRef(run_name(root, spec), spec.stage, params.setting, spec.loop.seed)
    # Where there is no result, this says which command makes it.
    chosen = params.checkpoint
    checkpoint = find_trained(root, spec) if chosen == "result" else runs.choose_checkpoint(root, run, chosen)
    return run, checkpoint, resolve_data(root, DataSpec(params.dataset, params.split, params.extractor, params.loader))


def answers_examples(root: Root, params: EvaluateParams) -> bool:
    """Whether the run is one of a task that answers examples, and not of retrieval."""
    if params.run is not None:
        return runs.find_run(root, params.run).task != RETRIEVAL
    return params.finetuning is not None and params.finetuning.task != RETRIEVAL


def task_prediction(root: Root, params: EvaluateParams) -> PredictionSpec:
    """Find the checkpoint and the examples of an evaluation of a task that answers examples.

    Raises:
        UserError: one of them is not there, or the run is one of retrieval.
    """
    name = params.run
    if name is None:
        assert params.finetuning is not None
        name = run_name(root, params.finetuning.spec())
    run = runs.find_run(root, name)
    return prediction_spec(root, run, params.checkpoint, params.dataset, params.split, params.predict, params.loader)
