from collections import Counter
from itertools import chain

import numpy as np
import pytest

from feature_extraction.samples.tars import ShardError
from model.data.order import WHOLE, BatchOrder, Part
from model.data.streams import generator


class ShardStore:
    """A keeper of shards that remembers what it was told."""

    def __init__(self, bad=()):
        self.bad, self.told, self.skipped_samples, self.lost = set(bad), [], 0, 0

    def sound(self, shard):
        return shard not in self.bad

    def expect(self, shards):
        self.told.append(list(shards))


def make_order(shards, seed=3, batch_size=4, images=None, window=16, store=None):
    shards = np.array(shards)
    images = np.arange(len(shards)) if images is None else np.array(images)
    return BatchOrder(seed, batch_size, shards, images, window, store)


def epoch_of(order, epoch, count, batch_size=4):
    """The samples of one epoch in order; batches divide it."""
    steps = range(epoch * count // batch_size, (epoch + 1) * count // batch_size)
    return [sample for step in steps for _, sample in order.step(step)]


def order_by_hand(seed, epoch, shards, window):
    """The rule of the module's docstring, word by word."""
    draw = generator(seed, "order", epoch, 0).random(max(shards) + 1)
    in_order = sorted(range(max(shards) + 1), key=lambda shard: draw[shard])
    shown = []
    for number, first in enumerate(range(0, len(in_order), window)):
        members = [sample for sample, shard in enumerate(shards) if shard in in_order[first : first + window]]
        draws = generator(seed, "order", epoch, number + 1).random(len(members))
        shown += [members[place] for place in sorted(range(len(members)), key=lambda place: draws[place])]
    return shown


@pytest.mark.parametrize("window", [1, 3, 16])
def test_the_order_is_what_the_rule_says(window):
    # Shard 2 has no sample, and captions of a shard need not stand together.
    shards = [5, 0, 0, 1, 3, 3, 3, 4, 1, 0, 6, 6]
    order = make_order(shards, window=window)
    for epoch in range(3):
        assert epoch_of(order, epoch, 12) == order_by_hand(3, epoch, shards, window)


def test_each_epoch_is_a_permutation_that_depends_on_epoch_and_seed():
    shards = np.repeat(np.arange(40), 25)
    order = make_order(shards)
    first, second, other = epoch_of(order, 0, 1000), epoch_of(order, 1, 1000), epoch_of(make_order(shards, 4), 0, 1000)
    assert sorted(first) == sorted(second) == sorted(other) == list(range(1000))
    assert first != second
    assert first != other
    assert first == epoch_of(make_order(shards), 0, 1000)


def test_a_window_mixes_its_shards_and_no_others():
    shards = np.repeat(np.arange(6), 10)
    windows = shards[epoch_of(make_order(shards, window=2), 0, 60)].reshape(3, 20)
    assert all(len(set(window)) == 2 for window in windows.tolist())
    assert any(len(set(window[:10])) == 2 for window in windows.tolist())


def test_every_sample_comes_once_an_epoch_even_when_batches_straddle_epochs():
    order = make_order(np.zeros(10, np.int64))
    seen = Counter(place for step in range(5) for place in order.step(step))
    assert seen == Counter((epoch, sample) for epoch in range(2) for sample in range(10))


def test_a_step_can_be_asked_for_without_its_predecessors():
    shards = np.repeat(np.arange(3), 7)
    walked = make_order(shards, window=2)
    steps = [walked.step(step) for step in range(20)]
    assert make_order(shards, window=2).step(17) == steps[17]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_a_step_are_the_whole(count):
    order = make_order(np.repeat(np.arange(5), 6), batch_size=8, window=2)
    for step in range(8):
        parts = [order.step(step, Part(index, count)) for index in range(count)]
        assert list(chain.from_iterable(parts)) == order.step(step, WHOLE)
        assert {len(part) for part in parts} == {8 // count}


def test_a_window_names_the_images_of_its_captions():
    shards, images = np.repeat(np.arange(7), 8), np.repeat(np.arange(28), 2)
    order = make_order(shards, images=images, window=3)
    for epoch in range(2):
        in_order = epoch_of(order, epoch, 56)
        at = 0
        for size in (24, 24, 8):
            members = in_order[at : at + size]
            at += size
            for sample in members:
                assert order.window(epoch, sample).tolist() == sorted({int(images[other]) for other in members})


def test_a_window_of_one_image_borrows_from_its_neighbours():
    # Three windows of one shard each; the middle shard has three images, the others one with two captions each.
    shards, images = [0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 2, 3, 4, 4]
    order = make_order(shards, images=images, window=1)
    for epoch in range(6):
        turn = [shards[sample] for sample in order_by_hand(3, epoch, shards, 1)]
        windows = list(dict.fromkeys(turn))
        of_shard = {0: {0}, 1: {1, 2, 3}, 2: {4}}
        for sample, shard in enumerate(shards):
            at = windows.index(shard)
            expected = of_shard[shard]
            for other in windows[at + 1 :] + windows[:at][::-1]:
                if len(expected) < 2:
                    expected = expected | of_shard[other]
            assert set(order.window(epoch, sample).tolist()) == expected


def test_a_split_of_one_image_has_a_window_of_one():
    assert make_order([0, 0], images=[5, 5]).window(0, 1).tolist() == [5]


def test_bad_shards_are_replaced_by_the_rule_and_counted():
    shards = np.repeat(np.arange(4), 6)
    store = ShardStore(bad=[1, 2])
    order = make_order(shards, window=3, store=store)
    healthy = order_by_hand(3, 0, shards.tolist(), 3)
    expected = []
    for window in (healthy[:18], healthy[18:]):
        good = [sample for sample in window if shards[sample] not in (1, 2)]
        lost = 0
        for sample in window:
            if shards[sample] in (1, 2):
                sample = good[(lost + len(good) // 2) % len(good)]
                lost += 1
            expected.append(sample)
    assert epoch_of(order, 0, 24) == expected
    assert store.skipped_samples == 12
    assert set(shards[order.window(0, 0)]) <= {0, 3}


def test_parts_agree_on_what_replaces_a_bad_shard():
    shards = np.repeat(np.arange(4), 6)
    whole = make_order(shards, batch_size=8, store=ShardStore([2])).step(1)
    parts = [make_order(shards, batch_size=8, store=ShardStore([2])).step(1, Part(index, 4)) for index in range(4)]
    assert list(chain.from_iterable(parts)) == whole


def test_a_window_without_a_good_shard_stops():
    with pytest.raises(ShardError, match="window 0: none of its shards"):
        make_order([0, 0, 1, 1], store=ShardStore([0, 1])).step(0)


def test_a_batch_made_again_counts_its_skipped_samples_once():
    store = ShardStore()
    order = make_order(np.repeat(np.arange(4), 2), batch_size=8, store=store)
    order.step(0)
    store.bad, store.lost = {1}, 1
    order.step(0)
    order.step(0)
    assert store.skipped_samples == 2


def test_parts_made_again_count_their_skipped_samples_once():
    """A process works off two parts; a shard is lost with the second, and both are made again."""
    store = ShardStore()
    order = make_order(np.repeat(np.arange(4), 2), batch_size=8, store=store)
    store.bad, store.lost = {1}, 1
    for _ in range(2):
        for index in range(2):
            order.step(0, Part(index, 2))
    assert store.skipped_samples == 2


def test_the_store_is_told_the_windows_of_the_step_and_the_next_one():
    shards = np.repeat(np.arange(6), 4)
    store = ShardStore()
    order = make_order(shards, window=2, store=store)
    first, second, third = np.array(epoch_of(make_order(shards, window=2), 0, 24)).reshape(3, 8)
    following = np.array(epoch_of(make_order(shards, window=2), 1, 24))[:8]
    for step in range(6):
        order.step(step)
    pairs = [(first, second), (second, third), (third, following)]
    assert [set(told) for told in store.told] == [set(shards[now]) | set(shards[then]) for now, then in pairs]
    assert [set(told[:2]) for told in store.told] == [set(shards[now]) for now, _ in pairs]


def test_a_batch_of_many_windows_expects_them_all():
    store = ShardStore()
    make_order(np.repeat(np.arange(6), 2), batch_size=12, window=1, store=store).step(0)
    assert len(store.told) == 1
    assert set(store.told[0]) == set(range(6))
