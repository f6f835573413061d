"""In which order the steps of experiments are submitted, and what each waits for."""

from __future__ import annotations

from typing import Any

import pytest

from flows.params.recipes import recipe
from flows.params.training import FinetuneParams, PretrainParams
from flows.params.variants import SweepParams
from flows.steps.experiments import Experiment, submit_experiments
from tasks.records import Stage

DEMO = recipe("demo", "data")


class Recorder:
    """Takes what is submitted. A future is the number of its submission."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, Any, list[int]]] = []

    def submit(self, stage: Stage, params: Any, wait_for: Any) -> Any:
        self.submitted.append((stage.value, params, wait_for))
        return len(self.submitted) - 1

    def names(self, futures: tuple[int, ...]) -> list[str]:
        return [self.submitted[future][0] for future in futures]


def submit(experiments: list[Experiment]) -> tuple[Recorder, list[Any]]:
    recorder = Recorder()
    submitted: list[Any] = submit_experiments(recorder.submit, experiments)
    return recorder, submitted


def test_a_rebuild_trains_each_run_once_and_waits_for_no_more_than_it_needs() -> None:
    recorder, submitted = submit([Experiment(DEMO, setting) for setting in DEMO.settings])
    assert [(name, waits) for name, _, waits in recorder.submitted] == [
        ("pretrain", []),
        ("finetune", []),  # task-specific
        ("finetune", [0]),
        ("evaluate", [1]),
        ("evaluate", [0]),
        ("evaluate", [2]),
    ]
    trainings = {setting: recorder.names(one.trainings) for setting, one in zip(DEMO.settings, submitted, strict=True)}
    assert trainings == {
        "zero-shot": ["pretrain"],
        "task-specific": ["finetune"],
        "pretrain+finetune": ["pretrain", "finetune"],
    }
    for setting, one in zip(DEMO.settings, submitted, strict=True):
        assert recorder.submitted[one.evaluation][1] == DEMO.for_evaluate(setting)


@pytest.mark.parametrize("ablation", ["layers", "boxes"])
def test_variants_have_runs_of_their_own_and_first_steps_come_before_second_ones(ablation: Any) -> None:
    variants = SweepParams(ablation=ablation, values=(1, 2), base=DEMO).variants()
    recorder, submitted = submit([Experiment(variant.params, variant.setting) for variant in variants])
    assert [(name, waits) for name, _, waits in recorder.submitted] == [
        ("pretrain", []),
        ("pretrain", []),
        ("finetune", [0]),
        ("finetune", [1]),
        ("evaluate", [2]),
        ("evaluate", [3]),
    ]
    for variant, one in zip(variants, submitted, strict=True):
        pretraining, finetuning = (recorder.submitted[future][1] for future in one.trainings)
        assert isinstance(pretraining, PretrainParams) and isinstance(finetuning, FinetuneParams)
        assert pretraining.encoder == finetuning.encoder == variant.params.encoder
        assert recorder.submitted[one.evaluation][1].finetuning == finetuning
