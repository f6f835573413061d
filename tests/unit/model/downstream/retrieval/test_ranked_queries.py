from __future__ import annotations

import numpy as np
import pytest

from model.downstream.retrieval import ranked_queries as module
from model.downstream.retrieval.ranked_queries import RankedQueries, best_first, choose, rank_queries
from model.downstream.retrieval.scores import WholeMatrix


def queries(ranks: list[int], margins: list[float]) -> RankedQueries:
    return RankedQueries(np.array(ranks), np.array(margins, np.float32))


def test_ranks_count_ties_against_and_margins_are_over_the_best_wrong_candidate() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0], [0.5, 4.0, 2.5]], np.float32)
    of_images, of_captions = rank_queries(WholeMatrix(scores), np.array([0, 1, 2]))
    assert of_captions.ranks.tolist() == [1, 3, 2]  # caption 1 ties with image 0, and image 2 is better
    assert of_captions.margins.tolist() == [2.0, -3.0, -2.5]
    assert of_images.ranks.tolist() == [1, 3, 2]  # image 1 ties with caption 0, and caption 2 is better
    assert of_images.margins.tolist() == [1.0, -4.0, -1.5]


def test_an_image_stands_by_the_best_of_its_captions() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 1.0]], np.float32)
    of_images, _ = rank_queries(WholeMatrix(scores), np.array([0, 0, 1]))
    assert of_images.ranks.tolist() == [1, 1]
    assert of_images.margins.tolist() == [1.0, 1.0]


def test_what_a_shortlist_left_out_ranks_last_and_has_no_margin() -> None:
    left_out = -np.inf
    scores = np.array([[left_out, 1.0], [2.0, left_out]], np.float32)
    of_images, of_captions = rank_queries(WholeMatrix(scores), np.array([0, 1]))
    assert of_images.ranks.tolist() == of_captions.ranks.tolist() == [2, 2]
    assert of_images.margins.tolist() == of_captions.margins.tolist() == [left_out, left_out]


def test_a_margin_is_infinite_where_nothing_else_was_scored() -> None:
    of_images, of_captions = rank_queries(WholeMatrix(np.ones((1, 2), np.float32)), np.array([0, 0]))
    assert of_images.margins.tolist() == [np.inf]
    assert of_captions.margins.tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("at_once", [1, 50, 2**22])
def test_parts_of_any_size_come_to_what_a_plain_loop_finds(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPARED_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    scores = random.integers(0, 9, (11, 23)).astype(np.float32)  # many ties
    caption_image = np.concatenate([np.arange(11), random.integers(0, 11, 12)])
    of_images, of_captions = rank_queries(WholeMatrix(scores), caption_image)
    for image in range(11):
        true, wrong = scores[image, caption_image == image].max(), scores[image, caption_image != image]
        assert of_images.ranks[image] == 1 + sum(wrong >= true)
        assert of_images.margins[image] == true - wrong.max()
    for caption in range(23):
        true, wrong = scores[caption_image[caption], caption], np.delete(scores[:, caption], caption_image[caption])
        assert of_captions.ranks[caption] == 1 + sum(wrong >= true)
        assert of_captions.margins[caption] == true - wrong.max()


def test_chosen_are_the_worst_the_best_and_four_in_between() -> None:
    # Of twenty-one queries, number n ranks 21 - n, so the order is 0, 1, 2, ...: worst first.
    assert choose(queries(list(range(21, 0, -1)), [0] * 21)) == [0, 1, 2, 4, 8, 12, 16, 18, 19, 20]


def test_at_equal_rank_the_margin_decides() -> None:
    assert choose(queries([1] * 6, [0.3, 0.1, 0.9, 0.2, 0.7, 0.8])) == [1, 3, 0, 4, 5, 2]


def test_of_queries_that_are_the_same_the_first_met_is_shown() -> None:
    captions = queries([9, 8, 7, 6, 5, 4, 3, 2, 1, 1], [-1] * 8 + [1, 2])
    # Worst: one each of images 0, 1, 2. Best: one each of images 4 and 3, then nothing is left.
    assert choose(captions, np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4])) == [0, 3, 5, 7, 9]


def test_of_equal_scores_the_true_candidate_comes_last() -> None:
    scores, correct = np.array([1, 2, 2, 2], np.float32), np.array([False, True, False, False])
    assert best_first(scores, correct).tolist() == [2, 3, 1, 0]
