import numpy as np
import pytest
from pydantic import ValidationError

from model.data.draws import draw_uniforms
from model.data.streams import generator
from model.objectives.config import RegionMasking, WordMasking
from model.objectives.masking import KEPT, NOISED, SEEN, SWAPPED, ZEROED, Pieces, WordDraws, mask_regions, mask_words

PIECES = Pieces.of(1005, mask_id=4, special_ids=range(5))
BERT = WordMasking(mask_share=0.8, random_share=0.1)
V1_REGIONS = RegionMasking(zero_share=0, noise_share=0.8, swap_share=0.1)


def turns(count):
    """One sample after the other, over four epochs."""
    return np.stack([np.arange(count) % 4, np.arange(count) // 4], 1)


def hide_words(ids, rule, seed=0):
    """Inputs (B, T) and what is chosen, by the draws of training."""
    ids = np.atleast_2d(np.asarray(ids, np.int64))
    purposes = ("word", "word_fate", "word_piece")
    draws = WordDraws(*(draw_uniforms(seed, purpose, turns(len(ids)), ids.shape[1]) for purpose in purposes))
    return mask_words(ids, draws, rule, PIECES)


def hide_all_regions(pairs, regions, rule):
    draws = (draw_uniforms(3, purpose, turns(pairs), regions) for purpose in ("region", "region_fate"))
    return mask_regions(np.ones((pairs, regions), np.bool_), *draws, rule)


def within_five_sigma(hits: int, trials: int, share: float) -> bool:
    return abs(hits - trials * share) <= 5 * np.sqrt(trials * share * (1 - share))


@pytest.mark.parametrize("rule", [BERT, WordMasking()])
def test_word_masking_shares(rule):
    ids = np.random.default_rng(0).integers(5, 1005, (5000, 42))
    ids[:, 0], ids[:, -1] = 2, 3
    inputs, chosen = hide_words(ids, rule)
    count = int(chosen.sum())
    assert count > 20_000
    # A caption without any target (1 in 665 of 40 pieces) gets one.
    assert within_five_sigma(count, 200_000, 0.15 + 0.85**40 / 40)
    kept_share = 1 - rule.mask_share - rule.random_share
    # A random piece is the old one once in a thousand.
    assert within_five_sigma(int((inputs[chosen] == 4).sum()), count, rule.mask_share)
    assert within_five_sigma(int((inputs == ids)[chosen].sum()), count, kept_share + rule.random_share / 1000)
    assert (inputs[~chosen] == ids[~chosen]).all()


def test_every_place_of_a_caption_is_as_likely_as_the_others():
    _, chosen = hide_words(np.full((20_000, 6), 7), WordMasking(rate=0.1))
    forced = 0.9**6 / 6
    for place in range(6):
        assert within_five_sigma(int(chosen[:, place].sum()), 20_000, 0.1 + forced), place


def test_random_pieces_are_spread_over_the_whole_vocabulary():
    inputs, chosen = hide_words(np.full((1000, 40), 7), WordMasking(rate=0.9, mask_share=0, random_share=1))
    counts = np.bincount(inputs[chosen], minlength=1005)
    assert not counts[:5].any()
    assert within_five_sigma(counts[5:505].sum(), int(chosen.sum()), 0.5)
    assert (counts[5:] > 0).all()


def test_special_tokens_and_padding_are_never_hidden_nor_drawn():
    ids = np.tile([2, 7, 1, 8, 3, 0], (300, 1))
    inputs, chosen = hide_words(ids, WordMasking(rate=0.9, mask_share=0.5, random_share=0.5))
    fixed = [0, 2, 4, 5]
    assert (inputs[:, fixed] == ids[:, fixed]).all() and not chosen[:, fixed].any()
    assert chosen[:, [1, 3]].any(0).all()
    assert not np.isin(inputs[:, [1, 3]], [0, 1, 2, 3]).any()


def test_a_short_caption_has_a_target_unless_the_rule_says_otherwise_and_an_empty_one_none():
    short = np.tile([2, 9, 3], (2000, 1))
    _, chosen = hide_words(short, WordMasking(rate=0.01))
    assert chosen.tolist() == [[False, True, False]] * 2000
    _, chosen = hide_words(short, WordMasking(rate=0.01, at_least_one=False))
    assert within_five_sigma(int(chosen.sum()), 2000, 0.01) and not chosen[:, [0, 2]].any()
    for ids, rule in (([2, 3], WordMasking(rate=0.5)), ([2, 9, 3], WordMasking(rate=0))):
        inputs, chosen = hide_words(ids, rule)
        assert not chosen.any() and inputs[0].tolist() == ids


@pytest.mark.parametrize("rule", [RegionMasking(), V1_REGIONS, RegionMasking(rate=0.3, zero_share=1)])
def test_region_masking_shares(rule):
    treatment = hide_all_regions(2000, 100, rule)
    count = int((treatment != SEEN).sum())
    assert count > 20_000
    assert within_five_sigma(count, 200_000, rule.rate)
    kept = 1 - rule.zero_share - rule.noise_share - rule.swap_share
    for what, share in (
        (ZEROED, rule.zero_share),
        (NOISED, rule.noise_share),
        (SWAPPED, rule.swap_share),
        (KEPT, kept),
    ):
        assert within_five_sigma(int((treatment == what).sum()), count, share), what


def test_a_regions_fate_does_not_depend_on_how_many_follow():
    rule = RegionMasking(rate=0.5)
    assert hide_all_regions(20, 100, rule)[:, :10].tolist() == hide_all_regions(20, 10, rule).tolist()


def test_padding_is_never_chosen():
    draws = np.zeros((1, 3))
    treatment = mask_regions(np.array([[True, False, True]]), draws, draws, RegionMasking())
    assert treatment.tolist() == [[ZEROED, SEEN, ZEROED]]


def test_shares_above_one_are_refused():
    with pytest.raises(ValidationError, match="exceed 1 together"):
        WordMasking(mask_share=0.9, random_share=0.2)
    with pytest.raises(ValidationError, match="at most 1"):
        RegionMasking(noise_share=0.2)


def test_streams_depend_on_every_part_of_their_name_and_on_nothing_else():
    names = [(0, "order", 0, 0), (1, "order", 0, 0), (0, "negatives", 0, 0), (0, "order", 1, 0), (0, "order", 0, 1)]
    draws = [generator(*name).random() for name in names]
    assert len(set(draws)) == len(names)
    assert draws == [generator(*name).random() for name in names]


def test_the_forced_piece_of_uniter_is_the_first_and_always_masked():
    ids = np.full((20_000, 6), 7)
    ids[:, 0], ids[:, -1] = 2, 3
    rule = WordMasking(rate=0.1, mask_share=0.5, random_share=0.25, forced="first")
    inputs, chosen = hide_words(ids, rule)
    forced = 0.9**4
    assert chosen[:, 1:5].any(1).all() and not chosen[:, [0, 5]].any()
    assert within_five_sigma(int(chosen[:, 1].sum()), 20_000, 0.1 + forced)
    for place in range(2, 5):
        assert within_five_sigma(int(chosen[:, place].sum()), 20_000, 0.1)
    # By chance a target is masked half the time; the forced one always.
    masked = int((inputs[chosen] == 4).sum())
    assert within_five_sigma(masked - round(20_000 * forced), 4 * 2000, 0.5)
    # A caption without pieces has no target, and another choice of the forced one changes no other.
    assert not hide_words([[2, 3, 0, 0]], rule)[1].any()
    drawn = hide_words(ids, rule.model_copy(update={"forced": "drawn"}))[1]
    several = drawn.sum(1) > 1
    assert several.any() and np.array_equal(drawn[several], chosen[several])


def test_one_region_is_hidden_where_chance_picked_none_each_as_likely():
    rule = RegionMasking(rate=0.1, zero_share=1, at_least_one=True)
    hidden = hide_all_regions(20_000, 5, rule) == ZEROED
    assert hidden.any(1).all()
    for place in range(5):
        assert within_five_sigma(int(hidden[:, place].sum()), 20_000, 0.1 + 0.9**5 / 5)
    draws = np.full((2, 3), 0.5)
    padded = mask_regions(np.array([[True, False, False], [False] * 3]), draws, draws, rule)
    assert (padded == ZEROED).tolist() == [[True, False, False], [False] * 3]
    without = mask_regions(np.ones((2, 3), np.bool_), draws, draws, RegionMasking(rate=0.1))
    assert (without == SEEN).all()
