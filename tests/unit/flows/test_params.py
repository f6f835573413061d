"""Parameters refuse rooms that disagree before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flows.params import EvaluateParams, FinetuneParams, RebuildParams
from flows.recipes import recipe


def changed(path: str, value: object) -> dict[str, Any]:
    """The demo's parameters as JSON with one field changed."""
    content = recipe("demo", "data").model_dump(mode="json")
    *folders, name = path.split(".")
    target = content
    for folder in folders:
        target = target[folder]
    target[name] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder.max_regions", 13, "encoder.max_regions=13 exceeds extractor.max_regions=8"),
        ("pretraining_dataset.name", "retrieval", "both datasets are named 'retrieval'"),
        ("evaluation_split", "dev", "retrieval_dataset has no split 'dev'"),
        ("task_specific.start", "pretrained", "task_specific.start must be 'scratch'"),
        ("pretrain.step", 1, "Extra inputs"),
    ],
)
def test_disagreement_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RebuildParams.model_validate(changed(path, value))


def test_finetuning_a_pretrained_run_needs_its_parameters_and_its_encoder() -> None:
    full = recipe("demo", "data").for_finetune().model_dump()
    with pytest.raises(ValidationError, match="needs the parameters of a pretraining run"):
        FinetuneParams.model_validate(full | {"pretraining": None})
    other = full["encoder"] | {"num_layers": 3}
    with pytest.raises(ValidationError, match=r"encoder differs from pretraining\.encoder"):
        FinetuneParams.model_validate(full | {"encoder": other})


def test_a_setting_scores_the_run_it_names() -> None:
    params = recipe("demo", "data")
    full = params.for_evaluate("pretrain+finetune").model_dump()
    with pytest.raises(ValidationError, match="start='scratch'"):
        EvaluateParams.model_validate(full | {"setting": "task-specific"})
    with pytest.raises(ValidationError, match="needs pretraining"):
        EvaluateParams.model_validate(full | {"setting": "zero-shot"})
