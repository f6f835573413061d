"""A tiny model learns eight pairs by heart with every kind of negatives; hardest-in-batch goes on after a kill."""

import json
import shutil
from pathlib import Path

import pytest

from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig
from model.finetune import run_finetuning
from model.jobs import FinetuneJob
from model.training.checkpoint import list_checkpoints, weights_sha256

pytestmark = pytest.mark.slow("trains until it knows eight pairs")


@pytest.fixture
def job(eight_pairs, tiny, tmp_path):
    """Training from scratch; validation is on what was learnt."""
    source, vocabulary = eight_pairs

    def make(run: str, encoder=tiny, **changes) -> FinetuneJob:
        fields = {"start": "scratch", "batch_size": 8, "num_threads": 1, "device": "cpu", **changes}
        return FinetuneJob(
            run_path=str(tmp_path / run),
            train=source,
            validation=source,
            vocabulary_path=str(vocabulary),
            encoder=encoder,
            finetune=FinetuneConfig.model_validate(fields),
        )

    return make


def rows(job: FinetuneJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.run_path) / "metrics.jsonl").read_text().splitlines()]


def result(job: FinetuneJob) -> str:
    final = json.loads((Path(job.run_path) / "final.json").read_text())
    return weights_sha256(Path(job.run_path) / final["checkpoint"])


@pytest.mark.parametrize(
    "negatives", [{"negatives": 3}, {"negatives": 1}, {"negatives_from": "batch"}], ids=["three", "one", "batch"]
)
def test_every_kind_of_negatives_reaches_recall_1(job, negatives):
    learning = {"steps": 200, "mean_hinge_share": 0.2, "optim": OptimConfig(learning_rate=3e-3)}
    task = job("run", **learning, **negatives, validation_steps=200)
    assert run_finetuning(task) == 0
    last = rows(task)[-1]
    assert last["validation_image_to_text_r1"] == last["validation_text_to_image_r1"] == 1.0


def test_hardest_in_batch_that_was_killed_ends_with_the_undisturbed_weights(job, tiny):
    """With dropout, in two parts, on both sides of the step at which mining begins."""
    encoder = tiny.model_copy(update={"dropout": 0.1})
    fields = {"steps": 30, "checkpoint_steps": 5, "keep_last": 6, "negatives_from": "batch", "mean_hinge_share": 0.5}
    whole, killed = (job(run, encoder, **fields, device_batch_size=4) for run in ("whole", "killed"))
    assert run_finetuning(whole) == 0
    for reached in (20, 10):
        assert run_finetuning(killed) == 0
        # What a kill leaves: the checkpoints up to some step, and no final mark.
        for checkpoint in list_checkpoints(Path(killed.run_path)):
            if checkpoint.step > reached:
                shutil.rmtree(checkpoint.path)
        (Path(killed.run_path) / "final.json").unlink()
    assert run_finetuning(killed) == 0
    assert result(killed) == result(whole)


def test_validation_reads_the_first_images_alone_if_told_so(job):
    few = job("few", steps=1, validation_steps=1, validation_images=5)
    assert run_finetuning(few) == 0
    assert rows(few)[-1]["validation_text_to_image_r5"] == 1.0, "of five images"
    every = job("all", steps=1, validation_steps=1, validation_images=100)
    assert run_finetuning(every) == 0
    assert rows(every)[-1]["validation_text_to_image_r5"] < 1.0, "of eight"
