"""Recipes are complete, agree with themselves, and survive the trip through JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.params import RebuildParams
from flows.recipes import RECIPES, recipe
from flows.world import uses_world
from tasks.errors import UserError


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_survives_json(name: str) -> None:
    params = recipe(name, "data")
    assert RebuildParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_flows_parameters_follow_from_a_recipe(name: str) -> None:
    params = recipe(name, "data")
    params.for_download(), params.for_extract(), params.for_pretrain()
    assert params.for_finetune().pretraining == params.for_pretrain()
    assert params.for_finetune(params.task_specific).pretraining is None
    assert [params.for_evaluate(setting).setting for setting in params.settings] == list(params.settings)


def test_cc3m_is_the_papers_configuration() -> None:
    params = recipe("cc3m", "data")
    assert (params.encoder.hidden_size, params.encoder.num_layers, params.encoder.max_regions) == (768, 12, 100)
    assert (params.pretrain.batch_size, params.pretrain.optim.learning_rate) == (192, 1e-4)
    assert params.finetune.margin == 0.2 and params.finetune.mean_hinge_share == 0
    assert params.extractor.backend == "detectron2"
    assert not params.download.allow_private_addresses


def test_demo_differs_between_full_and_task_specific_in_the_start_alone() -> None:
    params = recipe("demo", "data")
    assert params.task_specific is not None
    assert params.task_specific.model_copy(update={"start": "pretrained"}) == params.finetune


def test_demo_brings_its_detector() -> None:
    extractor = recipe("demo", "data").extractor
    assert extractor.weights is not None and Path(extractor.weights).is_file()
    assert extractor.vocabulary is not None and Path(extractor.vocabulary).is_file()


def test_demo_reads_the_world_under_its_root_and_cc3m_does_not() -> None:
    assert uses_world(recipe("demo", "elsewhere/"))
    assert not uses_world(recipe("demo", "elsewhere").with_root("moved"))
    assert not uses_world(recipe("cc3m", "data"))


def test_seed_reaches_every_training_run_and_no_data() -> None:
    params = recipe("demo", "data").with_seed(7)
    assert params.task_specific is not None
    assert {params.pretrain.seed, params.finetune.seed, params.task_specific.seed} == {7}
    assert params.for_download() == recipe("demo", "data").for_download()
    assert params.for_extract() == recipe("demo", "data").for_extract()


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no recipe 'demmo'; known are cc3m, demo"):
        recipe("demmo", "data")
