from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import LoaderConfig
from model.data.captions import load_captions
from model.data.feed import prefetch
from model.data.order import WHOLE, Part
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.batches import RetrievalBatch, RetrievalBatches
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.build import build_model

LABELS = [[0, 1], [2, 3, 4], [5], [6, 7], [1, 2], [3]]
CAPTIONS = [
    *[(0, text) for text in ("red", "red blue", "blue red", "blue", "red red", "blue blue", "red cat")],
    *[(1, text) for text in ("green cat dog", "cat", "dog green")],
    *[(2, text) for text in ("bird", "red blue")],
    *[(3, text) for text in ("tree car", "cat", "car")],
    *[(4, text) for text in ("blue green", "green", "bird")],
    (5, "cat"),
]
"""Six images; the first has seven captions; images 0 and 2, 2 and 4, and 1, 3 and 5 share a text."""


class World:
    """Opens a split and tells what a batch holds in the split's own words."""

    def __init__(self, source, vocabulary_path, captions) -> None:
        self.vocabulary = load_vocabulary(vocabulary_path)
        self.store = FeatureStore(source.features_path)
        self.captions = load_captions(source, self.store)
        self.tokens = tokenize(self.vocabulary, self.captions.texts, 8)
        self.texts_of = {image: {text for row, text in captions if row == image} for image, _ in captions}
        self._boxes = self.store.read(range(len(self.store.keys)), 4).boxes[:, 0]

    def batches(self, **changes) -> RetrievalBatches:
        config = FinetuneConfig(**changes)
        return RetrievalBatches(self.store, self.captions, self.tokens, self.vocabulary, 4, config)

    def pairs(self, batch: RetrievalBatch) -> list[list[tuple[int, str]]]:
        """(image, text) of every column of every row."""
        images = [int((self._boxes == boxes[0]).all(1).nonzero()[0]) for boxes in batch.regions.boxes]
        ids = [row[mask][1:-1].tolist() for row, mask in zip(batch.words.ids, batch.words.mask, strict=True)]
        texts = [self.vocabulary.tokenizer.decode(row, skip_special_tokens=False) for row in ids]
        slots = zip(batch.image_slots.tolist(), batch.word_slots.tolist(), strict=True)
        return [[(images[i], texts[w]) for i, w in zip(*row, strict=True)] for row in slots]


@pytest.fixture
def open_world(make_world):
    def make(labels=LABELS, captions=CAPTIONS, per_shard=3) -> World:
        return World(*make_world(labels, captions, per_shard), captions)

    return make


def test_sampled_negatives_are_wrong_and_come_one_side_at_a_time(open_world):
    world = open_world()
    make = world.batches(batch_size=6, negatives=3)
    for step in range(60):
        batch = make(step)
        assert len(batch.regions.mask) <= 6 and batch.is_wrong.all() and batch.missing == 0
        for own, *negatives in world.pairs(batch):
            image, text = own
            assert text in world.texts_of[image]
            for other_image, other_text in negatives[:3]:
                assert other_image == image and other_text not in world.texts_of[image]
            for other_image, other_text in negatives[3:]:
                assert other_text == text and text not in world.texts_of[other_image]


def test_every_wrong_caption_and_image_is_sampled_alike_often(open_world):
    captions = [(image, text) for image, text in enumerate(("red", "blue", "green", "cat", "dog", "bird"))]
    world = open_world(captions=captions)
    make = world.batches(batch_size=6, negatives=2)
    rows = [row for step in range(250) for row in world.pairs(make(step))]
    for place in (1, 3):
        drawn = [row[place + n] for row in rows for n in range(2) if row[0] == (0, "red")]
        values, counts = np.unique([f"{image} {text}" for image, text in drawn], return_counts=True)
        assert len(values) == 5 and len(drawn) == 500
        assert abs(counts - 100).max() <= 5 * (100 * 0.8) ** 0.5


def test_where_all_captions_read_alike_a_pair_has_no_sampled_negative(open_world):
    world = open_world(captions=[(image, "red cat") for image in range(6)])
    batch = world.batches(batch_size=6, negatives=2)(0)
    assert not batch.is_wrong.any() and batch.missing == 6 * 4
    assert all(row == [row[0]] * 5 for row in world.pairs(batch))
    mined = world.batches(batch_size=6, negatives_from="batch")(0)
    assert not mined.is_wrong.any() and mined.missing == 6 * 2


@pytest.mark.parametrize("captions", [CAPTIONS, [(i % 6, "red cat dog"[: 3 + 4 * (i % 3)]) for i in range(18)]])
def test_the_whole_batch_and_nothing_true_are_the_candidates(open_world, captions):
    world = open_world(captions=captions)
    make = world.batches(batch_size=8, negatives_from="batch")
    for step in range(30):
        batch = make(step)
        rows = world.pairs(batch)
        own = [row[0] for row in rows]
        captions_there = batch.is_wrong.shape[1] // 2
        for (image, text), *candidates in rows:
            wrong_captions = {t for _, t in candidates[:captions_there]} - {text}
            wrong_images = {i for i, _ in candidates[captions_there:]} - {image}
            assert {i for i, _ in candidates[:captions_there]} == {image}
            assert {t for _, t in candidates[captions_there:]} == {text}
            assert wrong_captions == {t for _, t in own if t not in world.texts_of[image]}
            assert wrong_images == {i for i, _ in own if text not in world.texts_of[i]}
        assert batch.is_wrong.tolist() == [[pair != row[0] for pair in row[1:]] for row in rows]


def test_a_batch_of_one_image_alone_has_no_candidates(open_world):
    # Seven captions of eight are the first image's, so that most batches of two hold nothing else.
    world = open_world(labels=LABELS[:2], captions=[*CAPTIONS[:7], (1, "cat")])
    batches = map(world.batches(batch_size=2, negatives_from="batch"), range(20))
    alone = [batch for batch in batches if len(batch.regions.mask) == 1]
    assert len(alone) > 10
    assert all(not batch.is_wrong.any() and batch.counts.tolist() == [2] for batch in alone)


@pytest.mark.parametrize("negatives_from", ["window", "batch"])
def test_parts_of_a_batch_hold_the_pairs_and_negatives_of_the_whole(open_world, negatives_from):
    world = open_world()
    whole, parted = (world.batches(batch_size=6, negatives_from=negatives_from) for _ in range(2))
    for step in range(8):
        parts = [row for index in range(3) for row in world.pairs(parted(step, Part(index, 3)))]
        assert parts == world.pairs(whole(step))


def test_the_parts_of_a_process_read_their_candidates_once(open_world, monkeypatch):
    world = open_world()
    make = world.batches(batch_size=6, negatives_from="batch")
    read, asked = world.store.read, []
    monkeypatch.setattr(world.store, "read", lambda rows, most: asked.append(list(rows)) or read(rows, most))
    parts = [make(step, Part(index, 2)) for step in range(2) for index in range(2)]
    assert len(asked) == 2
    assert [len(part.regions.mask) for part in parts[::2]] == [len(set(rows)) for rows in asked]


def test_hinges_are_averaged_over_samples_at_first_and_mined_after(open_world):
    make = open_world().batches(batch_size=4, steps=10, negatives=2, negatives_from="batch", mean_hinge_share=0.3)
    assert [make(step).is_wrong.shape[1] == 4 for step in range(10)] == [True] * 3 + [False] * 7


def test_samples_of_a_lost_shard_count_once_though_other_parts_see_them_too(open_world):
    world = open_world(per_shard=1)
    Path(world.store.folder, "regions-00001.tar").unlink()
    config = FinetuneConfig(batch_size=len(CAPTIONS), negatives_from="batch")

    def skipped(part: Part) -> int:
        store = FeatureStore(world.store.folder, loader=LoaderConfig(on_bad_shard="skip"))
        batches = RetrievalBatches(store, world.captions, world.tokens, world.vocabulary, 4, config)
        assert len(list(prefetch(lambda step: batches(step, part), 0, 2))) == 2
        return store.skipped_samples

    # Image 1 has three captions, and a step is an epoch.
    assert skipped(WHOLE) == 2 * 3
    assert sum(skipped(Part(index, len(CAPTIONS))) for index in range(len(CAPTIONS))) == 2 * 3


def test_captions_of_one_image_alone_are_refused(open_world):
    with pytest.raises(ValueError, match="captions of at least two images"):
        open_world(captions=CAPTIONS[:7]).batches(batch_size=2)


def test_hardest_in_batch_is_refused_for_batches_of_one():
    with pytest.raises(ValueError, match="negatives_from=batch needs a batch_size of at least 2"):
        FinetuneConfig(batch_size=1, negatives_from="batch")


def test_runs_made_before_a_field_existed_keep_their_identity():
    fields = {"negatives_from", "mining_batch_size", "validation_images"}
    assert not fields & set(FinetuneConfig(validation_images=5, mining_batch_size=7).identity())
    assert FinetuneConfig(negatives_from="batch").identity()["negatives_from"] == "batch"


@pytest.fixture
def twelve(make_world):
    """Four images with three captions each."""
    labels = [[0, 1], [2, 3, 4], [5], [6, 7]]
    words = ["red blue", "green cat dog", "bird", "tree car"]
    captions = [(i, " ".join(words[i].split()[: 1 + n % 3])) for n in range(3) for i in range(4)]
    source, path = make_world(labels, captions)
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    table = load_captions(source, store)
    return store, table, tokenize(vocabulary, table.texts, 8), vocabulary


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_the_score_matrix_equals_a_plain_loop_whatever_the_batch(twelve, tiny, batch_size):
    from model.data.batch import pad_words

    store, captions, tokens, vocabulary = twelve
    model = build_model(tiny, store, vocabulary, seed=2).eval()
    fast = score_split(model, store, captions, tokens, ScoringConfig(batch_size=batch_size), torch.device("cpu"))
    assert fast.shape == (4, 12)
    with torch.no_grad():
        for image in range(4):
            for caption in range(12):
                words = pad_words([tokens[caption]], vocabulary.pad_id)
                slow = model.score(words, store.read([captions.images[image]], 4))
                assert float(fast[image, caption]) == pytest.approx(float(slow), abs=1e-5)
