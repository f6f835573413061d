import numpy as np

from model.data.draws import draw_bits, draw_uniforms

GOLDEN = 0x9E3779B97F4A7C15


def slow_mix(value: int) -> int:
    value = (value + GOLDEN) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_the_mixer_is_split_mix_64():
    # The first output of SplitMix64 from state 0, as its author's program prints it.
    assert slow_mix(0) == 0xE220A8397B1DCDAF


def test_draws_equal_a_slow_twin():
    found = draw_bits(7, "region", np.array([[0, 5], [3, 2**40]]), 4)
    for row, (epoch, sample) in zip(found, [(0, 5), (3, 2**40)], strict=True):
        key = slow_mix(slow_mix(slow_mix(slow_mix(7) ^ 5) ^ epoch) ^ sample)
        assert row.tolist() == [slow_mix((key + place * GOLDEN) % 2**64) for place in range(4)]


def test_draws_depend_on_every_part_of_their_name_and_on_nothing_else():
    turns = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    rows = [draw_uniforms(seed, purpose, turns, 50) for seed in (0, 1) for purpose in ("word", "region")]
    assert len(np.unique(np.stack(rows))) == 4 * 4 * 50
    assert np.array_equal(draw_uniforms(0, "word", turns[2:3], 20), rows[0][2:3, :20])


def test_uniforms_are_uniform_and_neighbours_independent():
    turns = np.stack(np.meshgrid(np.arange(10), np.arange(200)), -1).reshape(-1, 2)
    values = draw_uniforms(0, "pair", turns, 100) - 0.5
    assert values.min() >= -0.5 and values.max() < 0.5
    assert abs(values.mean()) <= 5 * (1 / 12 / values.size) ** 0.5
    counts = np.histogram(values, 20, (-0.5, 0.5))[0]
    assert (np.abs(counts - values.size / 20) <= 5 * (values.size * 0.05 * 0.95) ** 0.5).all()
    for products in (values[:, 1:] * values[:, :-1], values[1:] * values[:-1], values[10:] * values[:-10]):
        assert abs(products.mean()) <= 5 / 12 / products.size**0.5
