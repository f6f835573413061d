"""Which corpus and objective a step has."""

import numpy as np
import pytest
from pydantic import ValidationError

from model.data.draws import draw_uniforms
from model.objectives import turns as module
from model.objectives.config import PretrainConfig
from model.objectives.turns import Turns, corpus_names, loss_names

ALL_DATA = {
    "coco/train": {"vlm": 6, "mlm": 8, "moc": 4},
    "vg/train": {"vlm": 9, "mlm": 12, "moc": 6},
    "sbu/train": {"vlm": 6, "mlm": 8, "moc": 4},
}
"""A part of UNITER's published ratios."""


def slow(config: PretrainConfig, steps: int) -> list[tuple[str, tuple[str, ...], int]]:
    """Corpus, objectives and visit of every step, as UNITER's pool: an entry for each of a share's units."""
    pool = [
        (corpus, (objective,))
        for corpus in sorted(config.corpora)
        for objective in ("mlm", "moc", "vlm")
        for _ in range(int(config.corpora[corpus].get(objective, 0)))  # type: ignore[union-attr]
    ]
    seen = dict.fromkeys(config.corpora, 0)
    found = []
    for step in range(steps):
        draw = draw_uniforms(config.seed, "objective", np.array([(0, step)]), 1)[0, 0]
        corpus, objectives = pool[int(draw * len(pool))]
        found.append((corpus, objectives, seen[corpus]))
        seen[corpus] += 1
    return found


def test_a_step_draws_from_the_pool_of_corpora_and_objectives_by_their_ratios(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 100)
    config = PretrainConfig(combine="draw", corpora=ALL_DATA, seed=3)
    expected = slow(config, 630)
    turns, names = Turns(config), corpus_names(config)
    for step in (629, 0, 250, *range(0, 630, 7)):  # In any order.
        turn = turns(step)
        assert (names[turn.corpus], tuple(one.name for one in turn.active), turn.visit) == expected[step]
    # 63 entries: of 630 steps about 120 are of VG's mlm.
    assert 85 < sum(step[:2] == ("vg/train", ("mlm",)) for step in expected) < 155
    for steps in (0, 1, 99, 100, 630):
        counted = [sum(corpus == name for corpus, _, _ in expected[:steps]) for name in names]
        assert turns.visits(steps) == counted


def test_numbers_share_out_by_the_product_and_a_written_order_changes_nothing():
    one = PretrainConfig(combine="draw", objectives={"mlm": 2, "vlm": 1}, corpora={"a/train": 1, "b/train": 3})
    other = PretrainConfig(
        combine="draw", objectives={"vlm": 1, "mlm": 2}, corpora={"b/train": {"vlm": 3, "mlm": 6}, "a/train": 1}
    )
    first, second = Turns(one), Turns(other)
    drawn = [(first(step).corpus, first(step).active[0].name) for step in range(1200)]
    assert drawn == [(second(step).corpus, second(step).active[0].name) for step in range(1200)]
    shares = {("a", "mlm"): 200, ("a", "vlm"): 100, ("b", "mlm"): 600, ("b", "vlm"): 300}
    for (corpus, objective), expected in shares.items():
        assert abs(drawn.count((("a", "b").index(corpus), objective)) - expected) < 5 * expected**0.5


def test_summed_objectives_draw_the_corpus_alone_and_one_corpus_has_every_step():
    turns = Turns(PretrainConfig(corpora={"a/train": 1, "b/train": 4}))
    found = [turns(step) for step in range(1000)]
    assert 750 < sum(turn.corpus for turn in found) < 850
    assert {tuple(one.name for one in turn.active) for turn in found} == {("mlm", "moc", "vlm")}
    alone = Turns(PretrainConfig())
    assert [(alone(step).corpus, alone(step).visit) for step in (0, 5, 70_000)] == [(0, 0), (0, 5), (0, 70_000)]


def test_losses_are_named_by_corpus_where_there_are_several():
    assert loss_names(PretrainConfig()) == ("mlm", "moc", "vlm")
    several = PretrainConfig(objectives={"mlm": 1}, corpora={"b/train": 1, "a/train": 1})
    assert loss_names(several) == ("a/train/mlm", "b/train/mlm")


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({"a/train": 0, "b/train": 1}, "greater than 0"),
        ({"a/train": {"mrfr": 1}, "b/train": 1}, "a/train has a share for 'mrfr'"),
        ({"a/train": {"mlm": 0}, "b/train": 1}, "shares of a/train are all 0"),
    ],
)
def test_shares_that_cannot_be_are_refused(corpora, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(combine="draw", corpora=corpora)


def test_corpora_name_another_run_and_none_the_run_of_before():
    assert "corpora" not in PretrainConfig().identity()
    assert PretrainConfig(corpora={"a/train": 1, "b/train": 2}).identity()["corpora"] == {"a/train": 1, "b/train": 2}


def test_dropped_texts_name_another_run_and_cut_ones_the_run_of_before():
    assert "long_texts" not in PretrainConfig().identity()
    assert PretrainConfig(long_texts="drop").identity()["long_texts"] == "drop"
