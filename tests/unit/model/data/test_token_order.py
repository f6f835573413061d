"""Buckets of so many tokens: against a slow twin, in parts, around bad shards, and how full they are."""

from collections import Counter

import numpy as np
import pytest

from feature_extraction.samples.tars import ShardError
from model.data.order import WHOLE, Part
from model.data.streams import generator
from model.data.token_order import Lengths, TokenOrder
from tests.unit.model.data.test_order import ShardStore, order_by_hand

RNG = np.random.default_rng(5)
SHARDS = np.sort(RNG.integers(0, 5, 90))
WORDS, REGIONS = RNG.integers(3, 12, 90), RNG.integers(1, 20, 90)


def make_order(tokens=100, buckets=2, seed=3, window=2, rows=1, marks=1, store=None, shards=SHARDS):
    lengths = Lengths(WORDS[: len(shards)], REGIONS[: len(shards)], marks)
    images = np.arange(len(shards))
    return TokenOrder(seed, tokens, buckets, shards, images, lengths, rows, window, store)


def buckets_by_hand(epoch, tokens=100, seed=3, window=2, rows=1, marks=1):
    """The rule of the module's docstring, one sample at a time."""
    in_order = np.argsort(generator(seed, "order", epoch).random(5), kind="stable").tolist()
    shuffled = order_by_hand(seed, epoch, SHARDS.tolist(), window)
    shown = []
    for number, first in enumerate(range(0, 5, window)):
        members = [sample for sample in shuffled if SHARDS[sample] in in_order[first : first + window]]
        full = sum(rows * (int(WORDS[one]) + int(REGIONS[one]) + marks) for one in members) / tokens
        by_regions = sorted(members, key=lambda one: REGIONS[one])
        count = max(1, round(2 * full**0.5))
        line, at = [], 0
        for strip in range(count):
            size = len(members) // count + (strip < len(members) % count)
            line += sorted(by_regions[at : at + size], key=lambda one: WORDS[one] * (-1 if strip % 2 else 1))
            at += size
        buckets, bucket = [], []
        for one in line:
            longer = [*bucket, one]
            cost = rows * len(longer) * (max(WORDS[longer]) + max(REGIONS[longer]) + marks)
            if cost > tokens:
                buckets.append(bucket)
                longer = [one]
            bucket = longer
        buckets.append(bucket)
        draws = generator(seed, "buckets", epoch, number + 1).random(len(buckets))
        shown += [buckets[place] for place in sorted(range(len(buckets)), key=lambda place: draws[place])]
    return shown


@pytest.mark.parametrize(("rows", "marks", "tokens"), [(1, 1, 100), (2, 0, 70), (1, 0, 400)])
def test_the_buckets_are_what_the_rule_says_and_a_step_takes_the_next_ones(rows, marks, tokens):
    order = make_order(tokens, rows=rows, marks=marks)
    stream = [
        (epoch, bucket) for epoch in range(3) for bucket in buckets_by_hand(epoch, tokens, rows=rows, marks=marks)
    ]
    for step in (4, 0, 3, len(stream) // 2 - 1, 1):
        expected = [(epoch, one) for epoch, bucket in stream[2 * step : 2 * step + 2] for one in bucket]
        assert order.step(step) == expected
        real = sum(rows * (WORDS[one] + REGIONS[one] + marks) for _, one in expected)
        assert order.filled(step) == pytest.approx(real / (2 * tokens))
    for _, bucket in stream:
        assert rows * len(bucket) * (max(WORDS[bucket]) + max(REGIONS[bucket]) + marks) <= tokens
    assert order.samples_a_step() == 90 * 2 / len(buckets_by_hand(0, tokens, rows=rows, marks=marks))


def test_every_sample_comes_once_an_epoch_and_any_step_can_be_made_first():
    order = make_order(buckets=3)
    steps = [order.step(step) for step in range(30)]
    seen = Counter(turn for step in steps for turn in step)
    assert max(seen.values()) == 1
    assert {sample for epoch, sample in seen if epoch == 0} == set(range(90))
    assert make_order(buckets=3).step(25) == steps[25]
    assert make_order(buckets=3, seed=4).step(25) != steps[25]


def test_parts_are_buckets_or_slices_of_them_and_together_the_step():
    order = make_order(buckets=4)
    for step in range(8):
        whole = order.step(step, WHOLE)
        for count in (2, 4, 8, 12):
            parts = [order.step(step, Part(number, count)) for number in range(count)]
            assert [turn for part in parts for turn in part] == whole
            if count >= 4:
                for first in range(0, count, count // 4):
                    sizes = [len(part) for part in parts[first : first + count // 4]]
                    assert max(sizes) - min(sizes) <= 1
    # A bucket has four samples or more at 100 tokens; of the finest parts some are empty and have a stand-in.
    empty = [(step, n) for step in range(8) for n in range(400) if not order.step(step, Part(n, 400))]
    step, number = empty[0]
    bucket = order.step(step, Part(number // 100, 4))
    assert order.stand_in(step, Part(number, 400)) in bucket


def test_a_sample_of_a_bad_shard_gives_its_place_to_the_next_good_one_of_the_line():
    plain, store = make_order(), ShardStore(bad={1})
    order = make_order(store=store)
    stream = [turn for step in range(6) for turn in plain.step(step)]
    found = [turn for step in range(6) for turn in order.step(step)]
    assert len(found) == len(stream)
    assert [turn for turn in found if SHARDS[turn[1]] == 1] == []
    replaced = [(old, new) for old, new in zip(stream, found, strict=True) if old != new]
    assert replaced and all(SHARDS[old[1]] == 1 and old[0] == new[0] for old, new in replaced)
    assert store.skipped_samples == len(replaced)
    with pytest.raises(ShardError, match="none of its shards can be read"):
        make_order(store=ShardStore(bad=set(range(5)))).step(0)


def test_the_store_is_told_the_windows_of_a_step_and_the_next_one():
    store = ShardStore()
    order = make_order(store=store)
    order.step(0)
    in_order = np.argsort(generator(3, "order", 0).random(5), kind="stable").tolist()
    assert store.told == [in_order[:4]]


def test_buckets_fill_their_budget_where_lengths_vary():
    """Captions of 12 +- 4 pieces and 36 +- 18 regions, where the original's buckets are 41% full."""
    rng, count = np.random.default_rng(0), 16_384
    words = np.clip(rng.normal(12, 4, count).round(), 3, 60).astype(np.int64) + 2
    regions = np.clip(rng.normal(36, 18, count).round(), 10, 100).astype(np.int64)
    shards = np.sort(rng.integers(0, 16, count))
    order = TokenOrder(0, 10_240, 16, shards, np.arange(count), Lengths(words, regions))
    assert np.mean([order.filled(step) for step in range(5)]) > 0.85
