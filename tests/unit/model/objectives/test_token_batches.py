"""Pretraining batches of so many tokens."""

import json
import logging

import pytest
import torch
from pydantic import ValidationError

from model.command import open_data
from model.data.order import Part
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from model.objectives.corpora import CorporaBatches, Corpus, PretrainingWatch
from model.pretrain import run_pretraining
from tests.toy import WORDS

TEXTS = [" ".join(WORDS[: 1 + number % 5]) for number in range(30)]
LABELS = [list(range(1 + number % 4)) for number in range(10)]


@pytest.fixture
def world(make_world):
    return make_world(LABELS, [(number % 10, text) for number, text in enumerate(TEXTS)])


def make(world, tiny, marks=0, **changes):
    source, path = world
    vocabulary = load_vocabulary(path)
    asked = {"tokens": 44, "buckets": 2} | changes.pop("token_batches", {})
    config = PretrainConfig(token_batches=asked, **changes)
    opened = open_data(source, vocabulary, tiny)
    return PretrainBatches(*opened, vocabulary, tiny.max_regions, config, marks), opened, config


@pytest.mark.parametrize("marks", [0, 1])
def test_a_bucket_of_right_pairs_stays_in_its_budget_and_all_parts_are_the_step(world, tiny, marks):
    batches, (_, _, tokens), _ = make(world, tiny, marks, matching="none", objectives={"mlm": 1, "moc": 1})
    seen = 0
    for step in range(6):
        buckets = [batches(step, Part(number, 2)) for number in range(2)]
        real = 0
        for batch in buckets:
            rows, words = batch.words.ids.shape
            assert rows * (words + batch.regions.mask.shape[1] + marks) <= 44
            real += int(batch.words.mask.sum() + batch.regions.mask.sum()) + rows * marks
        assert batches.token_order.filled(step) == pytest.approx(real / 88)
        seen += sum(len(batch.words.ids) for batch in buckets)
        halves = [batches(step, Part(number, 4)) for number in range(4)]
        for parts in (buckets, halves):
            assert torch.equal(sum(part.counts for part in parts), batches(step).counts)
    assert seen > len(tokens) / 2


def test_a_part_without_a_pair_has_one_that_predicts_nothing(world, tiny):
    batches, _, _ = make(world, tiny)
    parts = [batches(0, Part(number, 40)) for number in range(40)]
    assert torch.equal(sum(part.counts for part in parts), batches(0).counts)
    idle = [part for part in parts if not part.counts.any()]
    assert idle and all(len(part.words.ids) == 1 and not part.missing for part in idle)


def test_pairs_that_come_twice_count_twice(world, tiny):
    batches, _, _ = make(world, tiny, matching="paired", negative="image")
    for step in range(4):
        for number in range(2):
            batch = batches(step, Part(number, 2))
            right = batch.words.ids[::2], batch.regions.mask[::2]
            assert 2 * len(right[0]) * (right[0].shape[1] + int(right[1].sum(1).max())) <= 44


def test_a_budget_that_is_too_small_is_refused_with_what_is_needed(world, tiny):
    with pytest.raises(InputError, match=r"token_batches\.tokens=10, but the longest caption .* takes 11 tokens"):
        make(world, tiny, marks=1, token_batches={"tokens": 10})
    with pytest.raises(InputError, match=r"token_batches\.device_tokens=9, but .* takes 10 tokens"):
        make(world, tiny, token_batches={"device_tokens": 9})
    with pytest.raises(ValidationError, match="tokens"):
        PretrainConfig(token_batches={"tokens": 0})


def test_token_batches_name_another_run_and_how_a_device_takes_them_does_not():
    assert "token_batches" not in PretrainConfig().identity()
    asked = [PretrainConfig(token_batches={"tokens": 100, "device_tokens": limit}).identity() for limit in (None, 50)]
    assert asked[0] == asked[1] and asked[0]["token_batches"] == {"tokens": 100, "buckets": 16}


def test_lines_of_metrics_say_how_full_their_steps_were(world, tiny):
    batches, opened, config = make(world, tiny, log_steps=3)
    both = CorporaBatches([Corpus("toy/train", *opened)], load_vocabulary(world[1]), tiny.max_regions, config)
    watch = PretrainingWatch(config, both)
    filled = [batches.token_order.filled(step) for step in range(5)]
    assert watch(3, {}, {}) == {"filled_share": pytest.approx(sum(filled[:3]) / 3)}
    # The last line of a run may be of fewer steps.
    assert watch(5, {}, {}) == {"filled_share": pytest.approx(sum(filled[3:]) / 2)}
    assert both.samples_a_step() == batches.token_order.samples_a_step()


def test_a_bucket_in_parts_has_the_gradient_of_the_whole(job, world, tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    norms = []
    for run, limit in (("whole", None), ("parts", 15)):
        asked = {"tokens": 44, "buckets": 2, "device_tokens": limit}
        this = job(run, steps=2, log_steps=1, token_batches=asked)
        assert run_pretraining(this.model_copy(update={"train": world[0], "encoder": tiny})) == 0
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        norms.append([json.loads(line)["gradient_norm"] for line in lines])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert "88 tokens a step = 1 processes x 2 parts x 44" in caplog.text
    assert "90 tokens a step = 1 processes x 6 parts x 15" in caplog.text
