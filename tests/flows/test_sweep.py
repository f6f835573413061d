"""A sweep over layers, for real but small. BERT here has one layer, so that the variant of two layers must fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from flows.params.recipes import recipe
from flows.params.variants import SweepParams
from flows.steps.world import world_served
from tasks.evaluation.history import read_history
from tasks.reports.sweeps import Sweep, VariantsFailedError
from tasks.storage.root import Root
from tasks.world.dataset import WorldConfig

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

REPOSITORY = Path(__file__).parents[2]
WORLD = WorldConfig(pretraining_images=20, retrieval_train=6, retrieval_val=2, retrieval_test=4, workers=1)


def bert_of_one_layer(folder: Path, vocabulary_path: Path) -> None:
    """A new BERT of the demo's sizes, as transformers saves it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary_path.read_text().splitlines()),
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
    )
    BertForPreTraining(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> SweepParams:
    root = tmp_path_factory.mktemp("root")
    demo = recipe("demo", str(root))
    short: dict[str, Any] = {"steps": 4, "batch_size": 4, "checkpoint_steps": 2, "log_steps": 1}
    base = demo.model_copy(
        update={
            "encoder": demo.encoder.model_copy(update={"bert": str(root / "bert")}),
            "pretrain": demo.pretrain.model_copy(update=short),
            "finetune": demo.finetune.model_copy(update=short),
            "max_workers": 1,
        }
    )
    return SweepParams(ablation="layers", values=(2, 1), base=base)


@pytest.fixture(scope="module")
def first(prefect_harness: None, params: SweepParams) -> Sweep:
    from flows.sweep import sweep

    root = Path(params.base.root_uri)
    with world_served(params.base, WORLD):
        bert_of_one_layer(root / "bert", Path(params.base.vocabulary_path))
        with pytest.raises(VariantsFailedError, match=r"1 of 2 variants failed \(2 layers\)") as raised:
            sweep(params)
    return raised.value.sweep


def runs_of(params: SweepParams) -> dict[str, int]:
    """Every complete run, and when it was completed."""
    finals = Path(params.base.root_uri).glob("runs/*/final.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in finals}


def test_variant_that_fails_says_why_and_holds_up_no_other(first: Sweep, params: SweepParams) -> None:
    failed, done = first.variants
    assert (failed.name, failed.runs, failed.recalls) == ("2 layers", (), ())
    # Of the training itself, not of the finetuning that waited for it.
    assert "num_hidden_layers=1, but encoder.num_layers=2" in str(failed.error)
    assert (done.name, done.error) == ("1 layer", None)
    assert [run.partition("-")[0] for run in done.runs] == ["pretrain", "finetune"]
    assert set(runs_of(params)) == set(done.runs)


def test_table_is_what_the_evaluation_measured(first: Sweep, params: SweepParams) -> None:
    (row,) = read_history(Root(params.base.root_uri))
    (recalls,) = first.variants[1].recalls
    assert (recalls.images, recalls.captions, recalls.seed) == (4, 20, 0)
    assert {str(k): value for k, value in recalls.image_to_text.items()} == row.metrics["image_to_text_recall"]
    assert row.run == first.variants[1].runs[-1]


def test_layers_of_a_variant_are_those_of_its_checkpoint(first: Sweep, params: SweepParams) -> None:
    for run in first.variants[1].runs:
        job = json.loads((Path(params.base.root_uri) / "runs" / run / "job.json").read_text())
        assert job["encoder"]["num_layers"] == 1


def test_page_and_json_stand(first: Sweep, params: SweepParams) -> None:
    page = Path(first.page_path)
    assert page == Path(params.base.root_uri) / "sweeps/layers-retrieval.html"
    assert "2 layers failed" in page.read_text() and "1 layer" in page.read_text()
    content = json.loads(page.with_suffix(".json").read_text())
    assert SweepParams.model_validate(content["params"]) == params


def test_the_command_does_only_what_failed_again_and_ends_with_the_table(
    first: Sweep, params: SweepParams, tmp_path: Path
) -> None:
    before = runs_of(params)
    path = tmp_path / "base.json"
    path.write_text(params.base.model_dump_json())
    command = [sys.executable, "-m", "flows", "sweep", "layers", "--values", "2,1", "--params", str(path), "--json"]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    again = Sweep.model_validate_json(done.stdout.splitlines()[-1])
    assert [(one.name, one.recalls) for one in again.variants] == [(one.name, one.recalls) for one in first.variants]
    assert runs_of(params) == before
    assert len(read_history(Root(params.base.root_uri))) == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("1 of 2 variants failed (2 layers); the same command does only these again. 2 layers: ")
    assert "Traceback" not in done.stderr
