import numpy as np
import pytest

from model.data.permutation import permute


def order(seed, epoch, count):
    return permute(seed, "passage", np.stack([np.full(count, epoch), np.arange(count)], 1), count)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_an_epoch_shows_every_sample_once(count):
    for epoch in range(3):
        assert sorted(order(7, epoch, count).tolist()) == list(range(count))


def test_a_place_says_the_same_alone_and_among_others():
    whole = order(3, 5, 1000)
    assert permute(3, "passage", np.array([[5, 123]]), 1000).tolist() == [whole[123]]
    mixed = permute(3, "passage", np.array([[6, 0], [5, 999], [5, 0]]), 1000)
    assert mixed.tolist() == [order(3, 6, 1000)[0], whole[999], whole[0]]


def test_orders_differ_by_epoch_and_seed_and_look_random():
    orders = [order(0, 0, 20_000), order(0, 1, 20_000), order(1, 0, 20_000)]
    for number, one in enumerate(orders):
        # Neighbours and equal places of other orders are as far apart as random numbers, a third of the range.
        assert abs(np.abs(np.diff(one)).mean() / 20_000 - 1 / 3) < 0.01
        for other in orders[number + 1 :]:
            assert abs(np.abs(one - other).mean() / 20_000 - 1 / 3) < 0.01
        assert abs(np.corrcoef(np.arange(20_000), one)[0, 1]) < 0.03


def test_a_small_order_takes_many_permutations():
    assert len({tuple(order(seed, 0, 4).tolist()) for seed in range(500)}) == 24


def test_numbers_beyond_32_bits_can_be_ordered():
    count = (1 << 40) + 7
    places = np.stack([np.zeros(2000, np.int64), np.arange(2000) * (count // 2000)], 1)
    found = permute(0, "passage", places, count)
    assert len(np.unique(found)) == 2000 and found.min() >= 0 and found.max() < count
