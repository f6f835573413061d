import math

import numpy as np
import pytest

from model.data.order import BatchOrder
from model.data.tokenizer import TokenTable
from model.objectives.config import PretrainConfig
from model.objectives.pairing import Pair, Pairing


def make_pairing(image_rows, texts, shards=None, window_shards=16, **config):
    """Captions of one piece each: caption i reads texts[i]."""
    rows = np.array(image_rows)
    order = BatchOrder(0, 1, rows // 4 if shards is None else np.array(shards), rows, window_shards)
    tokens = TokenTable(np.array(texts, np.int32), np.arange(len(texts) + 1))
    return order, Pairing(order, rows, tokens, PretrainConfig(**config))


def draw(pairing, samples, epochs=40):
    return pairing.pairs([(epoch, sample) for epoch in range(epochs) for sample in range(samples)])


@pytest.mark.parametrize("negative", ["image", "image_or_caption"])
def test_a_wrong_pair_is_never_a_true_one(negative):
    # Twelve images with two captions each; images 0 and 1 share the text 100.
    rows = np.repeat(np.arange(12), 2)
    texts = np.arange(24)
    texts[[0, 2]] = 100
    _, pairing = make_pairing(rows, texts, negative=negative)
    wrong = [pair for pair in draw(pairing, 24) if not pair.matched]
    assert len(wrong) > 300
    for pair in wrong:
        assert texts[pair.caption] not in texts[rows == pair.image]


def test_half_the_pairs_are_wrong_and_half_of_those_have_a_strange_caption():
    rows = np.arange(50)
    _, pairing = make_pairing(rows, rows)
    pairs = draw(pairing, 50, epochs=80)
    wrong = [pair for pair in pairs if not pair.matched]
    captions = sum(pair.image == rows[pair.sample] for pair in wrong)
    assert abs(len(wrong) - 2000) <= 5 * math.sqrt(4000 * 0.25)
    assert abs(captions - len(wrong) / 2) <= 5 * math.sqrt(len(wrong) * 0.25)
    for pair in pairs:
        assert pair.caption == pair.sample or pair.image == rows[pair.sample]
        assert pair.matched == (rows[pair.caption] == pair.image)


def test_v1_replaces_images_only():
    rows = np.arange(20)
    _, pairing = make_pairing(rows, rows, negative="image")
    assert all(pair.caption == pair.sample for pair in draw(pairing, 20))


def test_strangers_come_from_the_samples_window_and_from_all_of_it():
    rows, shards = np.arange(32), np.arange(32) // 4
    order, pairing = make_pairing(rows, rows, shards, window_shards=2, matching="paired")
    pairs = draw(pairing, 32)
    for right, wrong in zip(pairs[::2], pairs[1::2], strict=True):
        other = wrong.image if wrong.image != right.image else wrong.caption
        assert other in order.window(right.epoch, right.sample)
        others = [pairing.another_image(right, number / 7) for number in range(7)]
        assert sorted(others) == sorted(set(order.window(right.epoch, right.sample).tolist()) - {right.image})


def test_a_pair_does_not_depend_on_the_others_of_its_batch():
    rows = np.arange(20)
    _, pairing = make_pairing(rows, rows)
    turns = [(epoch, sample) for epoch in range(5) for sample in range(20)]
    assert pairing.pairs(turns) == [pair for turn in turns for pair in pairing.pairs([turn])]


def test_paired_gives_both_and_none_gives_the_right_pair_alone():
    rows = np.arange(6)
    _, paired = make_pairing(rows, rows, matching="paired")
    assert [pair.matched for pair in paired.pairs([(0, 3)])] == [True, False]
    _, alone = make_pairing(rows, rows, matching="none")
    assert [(pair.image, pair.caption, pair.matched) for pair in alone.pairs([(0, 3)])] == [(3, 3, True)]


@pytest.mark.parametrize("matching", ["paired", "replace"])
def test_where_every_caption_reads_alike_no_pair_is_wrong_and_none_asks_for_a_match(matching):
    rows = np.arange(4)
    _, pairing = make_pairing(rows, np.zeros(4, int), matching=matching)
    assert draw(pairing, 4) == [Pair(epoch, row, row, row, True, False) for epoch in range(40) for row in range(4)]


@pytest.mark.parametrize("negative", ["image", "image_or_caption"])
def test_where_most_captions_read_alike_no_wrong_pair_is_true_and_both_kinds_stay_equally_many(negative):
    """Ten of twelve, as in a list of stock pictures: one try in eleven finds another caption, or an image without."""
    rows, texts = np.arange(12), np.array([0] * 10 + [1, 2])
    _, pairing = make_pairing(rows, texts, negative=negative)
    pairs = draw(pairing, 12, epochs=200)
    wrong = [pair for pair in pairs if not pair.matched]
    assert all(texts[pair.caption] != texts[pair.image] for pair in wrong)
    asked = [pair for pair in pairs if pair.opposed]
    assert abs(len(wrong) - len(asked) / 2) <= 5 * math.sqrt(len(asked) * 0.25)
    # A caption that reads like ten finds no other in (9/11)^16 = 4% of its turns.
    unopposed = [pair for pair in pairs if not pair.opposed]
    assert abs(len(unopposed) - 2000 * (9 / 11) ** 16) <= 5 * math.sqrt(2000 * 0.04)
    assert all(pair.matched and pair.image == pair.caption == pair.sample < 10 for pair in unopposed)
    _, paired = make_pairing(rows, texts, negative=negative, matching="paired")
    both = draw(paired, 12, epochs=200)
    assert sum(not pair.opposed for pair in both) == len(unopposed)
    assert sum(pair.matched and pair.opposed for pair in both) == sum(not pair.matched for pair in both)


def test_pairs_are_those_of_earlier_versions_where_a_wrong_one_is_found():
    """So that runs that were begun go on as they were: what is drawn, and in which order, is part of a run."""
    rows, texts = np.arange(8) // 2, np.array([0, 1, 0, 3, 4, 5, 6, 7])
    _, pairing = make_pairing(rows, texts)
    shown = [f"{pair.image}{'=' if pair.matched else '/'}{pair.caption}" for pair in draw(pairing, 8, epochs=2)]
    assert " ".join(shown) == "0/6 1/1 2/2 3/3 2=4 0/5 2/6 2/7 2/0 1/1 1=2 1/4 1/4 0/5 3=6 3=7"
