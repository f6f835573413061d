import numpy as np

from model.masking import IGNORE, KEPT, NOISED, SWAPPED, ZEROED, generator, mask_regions, mask_words

SPECIAL = np.arange(1005) < 5
WORDS = np.arange(5, 1005, dtype=np.int32)


def within_five_sigma(hits: int, trials: int, share: float) -> bool:
    return abs(hits - trials * share) <= 5 * np.sqrt(trials * share * (1 - share))


def test_word_masking_shares():
    rng = np.random.default_rng(0)
    ids = np.concatenate([[2], rng.integers(5, 1005, 200_000), [3]]).astype(np.int32)
    inputs, targets = mask_words(ids, rng, 0.15, 4, WORDS, SPECIAL)
    chosen = targets != IGNORE
    count = int(chosen.sum())
    assert count > 20_000
    assert within_five_sigma(count, 200_000, 0.15)
    masked = inputs[chosen] == 4
    kept = inputs[chosen] == ids[chosen]
    assert within_five_sigma(int(masked.sum()), count, 0.8)
    assert within_five_sigma(int(kept.sum()), count, 0.1 + 0.1 / 1000)
    assert (inputs[~chosen] == ids[~chosen]).all()
    assert (targets[chosen] == ids[chosen]).all()


def test_special_tokens_are_never_hidden_nor_drawn():
    rng = np.random.default_rng(1)
    for _ in range(300):
        ids = np.array([2, 7, 8, 3], np.int32)
        inputs, targets = mask_words(ids, rng, 0.9, 4, WORDS, SPECIAL)
        assert inputs[0] == 2 and inputs[3] == 3
        assert targets[0] == IGNORE and targets[3] == IGNORE
        assert set(inputs[1:3].tolist()).isdisjoint({0, 1, 2, 3})


def test_a_short_caption_always_has_a_target_and_an_empty_one_none():
    rng = np.random.default_rng(2)
    for _ in range(100):
        _, targets = mask_words(np.array([2, 9, 3], np.int32), rng, 0.01, 4, WORDS, SPECIAL)
        assert targets.tolist() == [IGNORE, 9, IGNORE]
    _, targets = mask_words(np.array([2, 3], np.int32), rng, 0.5, 4, WORDS, SPECIAL)
    assert (targets == IGNORE).all()


def test_region_masking_shares_of_both_rules():
    rng = np.random.default_rng(3)
    labels, usable = np.zeros(200_000, np.int16), np.ones(200_000, np.bool_)
    fate, targets = mask_regions(labels, usable, rng, 0.15, "zeros")
    count = int((targets != IGNORE).sum())
    assert within_five_sigma(count, 200_000, 0.15)
    assert within_five_sigma(int((fate == ZEROED).sum()), count, 0.9)
    assert not ((fate == NOISED) | (fate == SWAPPED)).any()
    fate, targets = mask_regions(labels, usable, rng, 0.15, "noise")
    count = int((targets != IGNORE).sum())
    assert within_five_sigma(int((fate == NOISED).sum()), count, 0.8)
    assert within_five_sigma(int((fate == SWAPPED).sum()), count, 0.1)
    assert within_five_sigma(int(((fate == KEPT) & (targets != IGNORE)).sum()), count, 0.1)


def test_a_region_called_background_is_hidden_but_never_a_target():
    rng = np.random.default_rng(4)
    labels = np.arange(1000, dtype=np.int16)
    usable = labels % 2 == 0
    fate, targets = mask_regions(labels, usable, rng, 0.5, "zeros")
    assert (targets[~usable] == IGNORE).all()
    assert (fate[~usable] == ZEROED).any()
    hit = targets != IGNORE
    assert (targets[hit] == labels[hit]).all()


def test_streams_depend_on_every_part_of_their_name_and_on_nothing_else():
    names = [(0, "masking", 0, 0), (1, "masking", 0, 0), (0, "order", 0, 0), (0, "masking", 1, 0), (0, "masking", 0, 1)]
    draws = [generator(*name).random() for name in names]
    assert len(set(draws)) == len(names)
    assert draws == [generator(*name).random() for name in names]
