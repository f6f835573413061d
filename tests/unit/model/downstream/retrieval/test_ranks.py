"""Ranks against a slow twin that sorts, whole and in blocks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.downstream.retrieval import ranks as ranks_module
from model.downstream.retrieval.ranks import Fold, Pairs, fold_ranks
from model.downstream.retrieval.scores import Index, WholeMatrix
from model.errors import InputError

Floats = npt.NDArray[np.float32]


class Cut:
    """A matrix that comes in blocks which end at some rows."""

    def __init__(self, scores: Floats, ends: list[int]) -> None:
        self._scores, self._ends = scores, ends
        self.shape = scores.shape

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        for start, stop in pairwise([0, *self._ends, len(self._scores)]):
            if stop > start:
                yield start, self._scores[start:stop]


def sorted_rank(scores: Floats, true: set[int]) -> int:
    """Place of the first true candidate in a list sorted so that of equals the wrong ones come first."""
    if all(scores[column] == -np.inf for column in true):
        return len(scores)
    is_true = np.isin(np.arange(len(scores)), list(true))
    order = np.lexsort([is_true, -scores])
    return int(np.flatnonzero(is_true[order])[0]) + 1


def all_of(scores: Floats) -> Fold:
    return Fold(range(scores.shape[0]), np.arange(scores.shape[1]))


def best_ranks(scores: npt.NDArray[np.floating], correct: list[set[int]]) -> list[int]:
    """Of each row, by the columns of its true candidates."""
    pairs = Pairs(*np.array([(row, column) for row, columns in enumerate(correct) for column in columns]).T)
    return fold_ranks(WholeMatrix(scores), pairs, pairs, [all_of(scores)])[0].image_to_text.tolist()


def pairs_of(truth: npt.NDArray[np.bool_]) -> Pairs:
    return Pairs(*np.nonzero(truth))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_ranks_in_blocks_and_folds_equal_those_of_a_full_sort(seed: int) -> None:
    random = np.random.default_rng(seed)
    images, captions = int(random.integers(1, 12)), int(random.integers(1, 30))
    scores = random.integers(0, int(random.choice([2, 5, 1000])), (images, captions)).astype(np.float32)
    scores[random.random(scores.shape) < random.choice([0, 0.3, 0.9])] = -np.inf
    # Many-to-many, and not the same in the two directions; some queries have no true candidate.
    truths = [random.random(scores.shape) < share for share in (0.2, 0.1)]
    start = int(random.integers(images))
    folds = [
        all_of(scores),
        Fold(
            range(start, int(random.integers(start, images)) + 1),
            np.sort(random.choice(captions, random.integers(1, captions + 1), False)),
        ),
    ]
    ends = sorted(random.integers(0, images + 1, size=random.integers(0, 4)).tolist())
    for matrix in (WholeMatrix(scores), Cut(scores, ends)):
        found = fold_ranks(matrix, pairs_of(truths[0]), pairs_of(truths[1]), folds, left_out=True)
        for fold, ranks in zip(folds, found, strict=True):
            inside = np.ix_(fold.rows, fold.columns)
            part, to_text, to_image = scores[inside], truths[0][inside], truths[1][inside].T
            assert ranks.rows.tolist() == [row for row, true in zip(fold.rows, to_text, strict=True) if true.any()]
            assert ranks.columns.tolist() == fold.columns[to_image.any(1)].tolist()
            for truth, way, got in ((to_text, part, ranks.image_to_text), (to_image, part.T, ranks.text_to_image)):
                expected = [
                    sorted_rank(row, set(np.flatnonzero(true)))
                    for row, true in zip(way, truth, strict=True)
                    if true.any()
                ]
                assert got.tolist() == expected


def test_a_block_larger_than_what_is_compared_at_once_gives_the_same_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 9, (17, 11)).astype(np.float32)
    pairs = pairs_of(random.random(scores.shape) < 0.3)
    folds = [all_of(scores), Fold(range(3, 9), np.array([0, 2, 3, 9]))]
    whole = fold_ranks(WholeMatrix(scores), pairs, pairs, folds)
    for at_once in (1, 30):
        monkeypatch.setattr(ranks_module, "COMPARED_AT_ONCE", at_once)
        for one, other in zip(whole, fold_ranks(WholeMatrix(scores), pairs, pairs, folds), strict=True):
            for name in ("rows", "image_to_text", "columns", "text_to_image"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_memory_does_not_grow_with_the_matrix() -> None:
    # 500 MB of scores, if they were there.
    scores = np.broadcast_to(np.arange(25_000, dtype=np.float32), (5_000, 25_000))
    own: Index = np.repeat(np.arange(5_000), 5)
    pairs = Pairs(own, np.arange(25_000))
    tracemalloc.start()
    ranks = fold_ranks(WholeMatrix(scores), pairs, pairs, [all_of(scores)])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    # Image 0's best caption is number 4, and all higher numbers are wrong; a caption scores alike with every image.
    assert ranks.image_to_text[[0, -1]].tolist() == [25_000 - 4, 1]
    assert set(ranks.text_to_image) == {5_000}


def test_double_precision_is_not_rounded_away() -> None:
    scores = np.array([[1.0, 1.0 + 1e-12]])
    assert best_ranks(scores, [{1}]) == [1]
    assert best_ranks(scores, [{0}]) == [2]


def test_ranks_by_hand_with_several_true_captions() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.9, 0.2, 0.3, 0.1]], np.float32)
    correct = [{1, 2}, {2, 3}]
    assert best_ranks(scores, correct) == [2, 2]


def test_a_true_match_does_not_stand_in_the_way_of_another() -> None:
    assert best_ranks(np.array([[0.9, 0.8, 0.1]], np.float32), [{0, 1}]) == [1]
    assert best_ranks(np.array([[0.9, 0.9, 0.1]], np.float32), [{0, 1}]) == [1]


def test_ties_count_against_us() -> None:
    flat = np.zeros((3, 3), np.float32)
    correct = [{0}, {1}, {2}]
    assert best_ranks(flat, correct) == [3, 3, 3]


def test_a_query_whose_true_candidates_were_left_out_ranks_after_all() -> None:
    lost = -np.inf
    scores = np.array([[lost, lost, 3, 1], [lost, 2, 3, lost]], np.float32)
    pairs = Pairs(np.array([0, 0, 1, 1]), np.arange(4))
    ranks = fold_ranks(WholeMatrix(scores), pairs, pairs, [all_of(scores)], left_out=True)[0]
    # Image 0 has lost both captions. Image 1's caption 2 is its best; that caption 3 is lost costs nothing.
    assert ranks.image_to_text.tolist() == [4, 1]
    # Caption 1 is found by another image alone: its own comes last, too. Caption 2: a tie.
    assert ranks.text_to_image.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(("broken", "left_out"), [(np.nan, True), (np.inf, True), (np.nan, False), (-np.inf, False)])
def test_a_score_that_is_no_number_is_named_by_row_and_column(broken: float, left_out: bool) -> None:
    scores = np.zeros((5, 3), np.float32)
    scores[0, 0] = -np.inf if left_out else 0
    scores[3, 2] = broken
    pairs = Pairs(np.array([0, 1, 2]), np.arange(3))
    with pytest.raises(InputError, match=rf"image row 3 with caption column 2 is {broken}: the checkpoint or its feat"):
        fold_ranks(Cut(scores, [2]), pairs, pairs, [all_of(scores)], left_out=left_out)
