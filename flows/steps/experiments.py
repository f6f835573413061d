"""Training runs and their evaluations, several at once, for a rebuild and a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol, TypeVar

from flows.params.experiment import RebuildParams
from flows.params.shards import Params
from flows.params.training import Setting
from flows.results import RetrievalResult
from tasks.records import CheckpointRef, Stage

_SETTINGS: tuple[Setting, ...] = ("pretrain+finetune", "task-specific", "zero-shot")
"""The longest way first."""

_Result = TypeVar("_Result", covariant=True)


class Future(Protocol[_Result]):
    """The result of a step to come: Prefect's future, or a thread's."""

    def result(self) -> _Result:
        """Wait for the result; raise what the step failed with."""


Submit = Callable[[Stage, Params, Sequence[Future[Any]]], Future[Any]]
"""Starts a stage with these parameters once the futures are done, in the order of the calls."""

Trainings = Callable[[int], AbstractContextManager[Submit]]
"""Takes how many steps work at once; inside the block they are submitted, at its end all are done or stopped."""


class Experiment(NamedTuple):
    """One row of a table: what a model is trained with, and the setting in which it is scored."""

    params: RebuildParams
    setting: Setting


class Trained(NamedTuple):
    """An experiment's result: its checkpoints, in the order of their making, and its evaluation."""

    checkpoints: tuple[CheckpointRef, ...]
    evaluation: RetrievalResult


class Submitted(NamedTuple):
    """An experiment under way."""

    trainings: tuple[Future[CheckpointRef], ...]
    evaluation: Future[RetrievalResult]

    def result(self) -> Trained:
        """Wait for the result. Where a training failed, raise its error, not that of a step that waited for it."""
        return Trained(tuple(training.result() for training in self.trainings), self.evaluation.result())


def submit_experiments(submit: Submit, experiments: Sequence[Experiment]) -> list[Submitted]:
    """Start all trainings and evaluations, each run once, each step after its predecessor.

    A step that waits for another holds one of the threads, so all first steps are submitted before any second one:
    with any number of threads the queue moves on.
    """
    started: dict[_Key, Future[Any]] = {}
    in_order = sorted(experiments, key=lambda experiment: _SETTINGS.index(experiment.setting))
    for level in zip_longest(*map(_with_what_they_wait_for, in_order)):
        for step, before in filter(None, level):
            if step.key not in started:
                waits = [] if before is None else [started[before.key]]
                started[step.key] = submit(step.stage, step.params, waits)
    futures = [[started[step.key] for step in _steps(experiment)] for experiment in experiments]
    return [Submitted(tuple(trainings), evaluation) for *trainings, evaluation in futures]


_Key = tuple[Stage, str]


class _Step(NamedTuple):
    stage: Stage
    params: Params

    @property
    def key(self) -> _Key:
        """Equal for steps that are the same work."""
        return self.stage, self.params.model_dump_json()


def _steps(experiment: Experiment) -> list[_Step]:
    """The steps of an experiment, its evaluation last."""
    params, setting = experiment
    evaluation = _Step(Stage.EVALUATE, params.for_evaluate(setting))
    if setting == "task-specific":
        return [_Step(Stage.FINETUNE, params.for_finetune(params.task_specific)), evaluation]
    pretraining = _Step(Stage.PRETRAIN, params.for_pretrain())
    if setting == "zero-shot":
        return [pretraining, evaluation]
    return [pretraining, _Step(Stage.FINETUNE, params.for_finetune()), evaluation]


def _with_what_they_wait_for(experiment: Experiment) -> list[tuple[_Step, _Step | None]]:
    steps = _steps(experiment)
    return list(zip(steps, [None, *steps], strict=False))
