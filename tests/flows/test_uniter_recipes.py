"""UNITER's recipes, shrunk: sizes, steps and data are the demo's, all else is the recipe's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.params.changes import with_changes
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.results import RebuildResult
from flows.steps.world import world_served
from tasks.config import DatasetConfig
from tasks.world.dataset import WorldConfig

# A whole rebuild each, most of them of four corpora.
pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.usefixtures("prefect_harness")]

WORLD = WorldConfig(pretraining_images=24, retrieval_train=6, retrieval_val=2, retrieval_test=4, workers=1)
SHORT = {"steps": 4, "device_batch_size": None, "checkpoint_steps": 2, "validation_steps": 2, "precision": "fp32"}


def shrunk(name: str, root_uri: str) -> RebuildParams:
    params, demo = recipe(name, root_uri), recipe("demo", root_uri)
    world, retrieval = demo.pretraining_dataset, demo.retrieval_dataset
    assert world is not None
    rows = {"train": world.splits["train"], "val": retrieval.splits["val"]}
    corpora = tuple(
        DatasetConfig(name=one.name, splits={split: rows[split] for split in one.splits if split in rows})
        for one in params.corpora
    )
    small = {
        name: getattr(demo.encoder, name)
        for name in (
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_positions",
            "max_text_tokens",
            "max_regions",
        )
    }
    several = bool(params.pretraining_datasets)
    changed = params.model_copy(
        update={
            "pretraining_dataset": None if several else corpora[0],
            "pretraining_datasets": corpora if several else (),
            "retrieval_dataset": retrieval,
            "download": demo.download,
            "extractor": demo.extractor.model_copy(update={"class_scores": params.extractor.class_scores}),
            "vocabulary_path": demo.vocabulary_path,
            "encoder": params.encoder.model_copy(update={**small, "bert": None}),
        }
    )
    # The world's vocabulary has no "!", and its lists are too short for 399 wrong captions.
    finetune = {**SHORT, "batch_size": 4, "negatives": min(3, params.finetune.negatives)}
    if params.finetune.hardest is not None:
        finetune["hardest"] = 2
    pretrain = {**SHORT, "batch_size": 4, "word_masking.random_from": None}
    if params.pretrain.token_batches is not None:
        pretrain |= {"token_batches.tokens": 80, "token_batches.buckets": 2}
    loops = {"pretrain": pretrain, "finetune": finetune, "task_specific": finetune}
    return with_changes(
        changed, {f"{loop}.{field}": value for loop, fields in loops.items() for field, value in fields.items()}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("root"))
    with world_served(recipe("demo", folder), WORLD):
        yield folder


@pytest.mark.parametrize("name", ["uniter-base-cc", "uniter-base", "uniter-base-plain"])
def test_a_recipe_goes_from_rows_to_its_table(name: str, root: str) -> None:
    from flows.rebuild import rebuild

    result: RebuildResult = rebuild(shrunk(name, root))
    assert [row.setting for row in result.table] == ["chance", "zero-shot", "task-specific", "pretrain+finetune"]
    assert Path(result.report_path).is_file()
