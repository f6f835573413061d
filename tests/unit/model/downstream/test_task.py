"""A task that nothing knew before is trained by one module and one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from model.config import ExampleSource, FeatureSource
from model.data.order import Part
from model.data.tokenizer import load_vocabulary
from model.downstream.example_batches import example_batches, open_examples
from model.downstream.retrieval.config import FinetuneConfig
from model.downstream.task import trained_task
from model.downstream.tasks import TASKS
from model.errors import InputError
from model.finetune import run_finetuning
from model.jobs import FinetuneJob
from model.training.checkpoint import list_checkpoints, weights_sha256
from tasks.examples.table import write_examples
from tasks.storage.root import Root
from tests.counting_task import CountingConfig, losses
from tests.toy import TINY, eight_pairs, make_world

__all__ = ["eight_pairs", "make_world"]


@pytest.fixture
def source(eight_pairs, tmp_path, monkeypatch):
    """Eight pictures and how many cats (label 3) each has; two ask for a picture that is not there."""
    monkeypatch.setitem(TASKS, "cats", "tests.counting_task")
    given, vocabulary = eight_pairs
    rows = [
        {
            "id": f"e{image}",
            "image_keys": [f"{image:09d}"],
            "texts": ["cat cat cat" if image == 5 else "cat"],
            "target_index": [image, (image + 1) % 8, (image + 3) % 8].count(3),
            "raw_id": str(image),
        }
        for image in range(10)
    ]
    write_examples(Root(str(tmp_path)), "cats", "toy", "train", rows)
    table = tmp_path / "datasets/toy/train/examples.parquet"
    examples = ExampleSource(features_path=given.features_path, examples_path=str(table), name=given.name)
    return examples, vocabulary


def job_of(source, run: Path, **changes) -> FinetuneJob:
    given, vocabulary = source
    fields = {"start": "scratch", "steps": 6, "batch_size": 4, "checkpoint_steps": 2, "num_threads": 1, "device": "cpu"}
    return FinetuneJob.model_validate(
        {
            "task": "cats",
            "run_path": str(run),
            "train": given,
            "validation": given,
            "vocabulary_path": str(vocabulary),
            "encoder": TINY.model_copy(update={"dropout": 0.1}),
            "finetune": fields | changes,
        }
    )


def test_a_run_that_lost_its_last_steps_ends_with_the_same_weights(source, tmp_path):
    whole, cut = (job_of(source, tmp_path / name, validation_steps=6, keep_last=9) for name in ("whole", "cut"))
    assert run_finetuning(whole) == run_finetuning(cut) == 0
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert "validation_accuracy" in lines[-1]
    expected = weights_sha256(list_checkpoints(tmp_path / "whole")[-1].path)
    for checkpoint in list_checkpoints(tmp_path / "cut"):
        if checkpoint.step > 2:
            shutil.rmtree(checkpoint.path)
    (tmp_path / "cut/final.json").unlink()
    assert run_finetuning(cut) == 0
    assert weights_sha256(list_checkpoints(tmp_path / "cut")[-1].path) == expected


def test_the_job_says_its_task_and_that_of_retrieval_does_not(source, tmp_path):
    job = job_of(source, tmp_path / "run")
    assert isinstance(job.finetune, CountingConfig) and job.task_identity() == {"task": "cats"}
    assert FinetuneJob.model_validate_json(job.model_dump_json()) == job
    content = job.model_dump(mode="json") | {"task": "retrieval"}
    with pytest.raises(ValidationError, match=r"task 'retrieval' reads train.captions_path"):
        FinetuneJob.model_validate(content)
    captions = FeatureSource(features_path="features", captions_path="captions.parquet", name="toy/train")
    with pytest.raises(ValidationError, match=r"task 'cats' reads validation.examples_path"):
        FinetuneJob.model_validate(job.model_dump() | {"validation": captions})
    content |= {"train": captions, "validation": captions}
    retrieval = FinetuneJob.model_validate(content)
    assert isinstance(retrieval.finetune, FinetuneConfig) and retrieval.task_identity() == {}
    assert "task" not in retrieval.model_dump(mode="json")
    with pytest.raises(ValidationError, match="margin: Extra inputs"):
        FinetuneJob.model_validate(job.model_dump() | {"finetune": {"steps": 1, "batch_size": 1, "margin": 0.1}})
    with pytest.raises(ValidationError, match="there is no task 'ears'"):
        FinetuneJob.model_validate(job.model_dump() | {"task": "ears"})


def test_a_part_of_a_batch_is_that_part_of_the_whole(source):
    given, vocabulary = source
    data = open_examples(given, load_vocabulary(vocabulary), TINY)
    assert list(data.examples.missing) == ["e8", "e9"]
    config = CountingConfig(steps=9, batch_size=4, seed=3)
    make, again = (example_batches(data, TINY, config) for _ in range(2))
    for step in (5, 0):
        whole, halves = make(step, Part()), [again(step, Part(number, 2)) for number in range(2)]
        assert whole.counts.tolist() == [4.0] and int(whole.missing) == 0
        assert torch.equal(whole.targets, torch.cat([half.targets for half in halves]))
        assert torch.equal(whole.regions.boxes, torch.cat([half.regions.boxes for half in halves]))


def test_examples_with_long_texts_are_cut_or_left_out(source):
    given, vocabulary = source
    words = load_vocabulary(vocabulary)
    narrow = TINY.model_copy(update={"max_text_tokens": 4})
    cut, short = (open_examples(given, words, narrow, way) for way in ("cut", "drop"))
    assert (len(cut.examples), cut.dropped, len(cut.tokens[5])) == (8, 0, 4)
    assert list(short.examples.ids) == ["e0", "e1", "e2", "e3", "e4", "e6", "e7"] and short.dropped == 1
    assert short.examples.image_rows[:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7]
    with pytest.raises(InputError, match=r"all 8 examples have more than encoder.max_text_tokens=2 tokens"):
        open_examples(given, words, TINY.model_copy(update={"max_text_tokens": 2}), "drop")


def test_the_loss_is_a_sum_over_the_examples(source):
    given, vocabulary = source
    data = open_examples(given, load_vocabulary(vocabulary), TINY)
    batch = example_batches(data, TINY, CountingConfig(steps=1, batch_size=4))(0, Part())
    bert = SimpleNamespace(embed_words=lambda _: 0, embed_regions=lambda *_: 0, cls_states=lambda *_: torch.zeros(4, 8))
    # Logits of log 3 for "none" and 0 for the three others: probabilities of 1/2 and 1/6.
    head = SimpleNamespace(bert=bert, head=lambda _: lambda cls: torch.tensor([[math.log(3), 0, 0, 0]]).repeat(4, 1))
    none = int((batch.targets == 0).sum())
    found = losses(head, batch, CountingConfig(steps=1, batch_size=4), 0)
    assert found.sums.item() == pytest.approx(none * math.log(2) + (4 - none) * math.log(6))
    assert found.correct.tolist() == [none]


def test_what_has_no_target_is_not_trained_on_and_what_has_no_training_is_said(source, tmp_path, monkeypatch):
    rows = [{"id": "a", "image_keys": ["000000000"], "texts": ["cat"], "raw_id": "1"}]
    write_examples(Root(str(tmp_path)), "cats", "toy", "train", rows)
    with pytest.raises(InputError, match="1 of 1 examples have no target_index, the first is a"):
        run_finetuning(job_of(source, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(TASKS, "dots", "tests.toy_task")
    with pytest.raises(InputError, match="task 'dots' is measured only"):
        trained_task("dots")
