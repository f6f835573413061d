"""The rules `maxconf` and `classwise`: NMS within each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.detectors.selection import best_labels, select_regions

SIZE = (100, 80)
LEFT, NEAR_LEFT, RIGHT = (0, 0, 20, 20), (1, 0, 21, 20), (50, 0, 70, 20)


def select(rule, probabilities, class_boxes, **options):
    probabilities = np.array(probabilities, np.float32)
    boxes = np.array(class_boxes, np.float32)
    if boxes.ndim == 2:
        boxes = boxes[:, None]
    options = {"nms_threshold": 0.5, "max_regions": 10} | options
    return select_regions(probabilities, 1 - probabilities.sum(axis=1), boxes, SIZE, rule=rule, **options)


def triples(kept) -> list[tuple[int, int, float]]:
    """(proposal, label, score) of each region."""
    scores = [round(float(score), 4) for score in kept.scores]
    return list(zip(kept.proposals.tolist(), kept.labels.tolist(), scores, strict=True))


def test_maxconf_gives_a_proposal_its_best_class_that_survives():
    # Proposal 1 loses class 0 to its neighbour, so its second class is its best; argmax would lose the proposal.
    probabilities = [[0.6, 0.1], [0.5, 0.3], [0.2, 0.1]]
    boxes = [LEFT, NEAR_LEFT, RIGHT]
    assert triples(select("maxconf", probabilities, boxes)) == [(0, 0, 0.6), (1, 1, 0.3), (2, 0, 0.2)]
    assert triples(select("argmax", probabilities, boxes)) == [(0, 0, 0.6), (2, 0, 0.2)]


def test_maxconf_passes_over_a_proposal_of_which_no_class_survives():
    assert triples(select("maxconf", [[0.6, 0.3], [0.5, 0.2]], [LEFT, NEAR_LEFT])) == [(0, 0, 0.6)]


def test_classwise_keeps_every_surviving_pair():
    probabilities = [[0.6, 0.1], [0.5, 0.3], [0.2, 0.1]]
    assert triples(select("classwise", probabilities, [LEFT, NEAR_LEFT, RIGHT])) == [
        (0, 0, 0.6),
        (1, 1, 0.3),
        (2, 0, 0.2),
        (2, 1, 0.1),
    ]


def test_each_class_compares_its_own_boxes():
    # In class 0 the two coincide, in class 1 they lie apart.
    boxes = [[LEFT, LEFT], [NEAR_LEFT, RIGHT]]
    kept = select("classwise", [[0.5, 0.3], [0.4, 0.2]], boxes)
    assert triples(kept) == [(0, 0, 0.5), (0, 1, 0.3), (1, 1, 0.2)]
    assert kept.boxes.tolist() == [list(map(float, box)) for box in (LEFT, LEFT, RIGHT)]


@pytest.mark.parametrize("rule", ["maxconf", "classwise"])
def test_equal_scores_keep_the_order_of_proposals_then_of_classes(rule):
    kept = select(rule, [[0.3, 0.3], [0.3, 0.3]], [RIGHT, LEFT])
    expected = [(0, 0), (1, 0)] if rule == "maxconf" else [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [pair[:2] for pair in triples(kept)] == expected


@pytest.mark.parametrize("rule", ["maxconf", "classwise"])
def test_a_class_whose_box_has_no_area_is_passed_over_and_another_takes_its_place(rule):
    assert triples(select(rule, [[0.6, 0.3]], [[(110, 0, 130, 20), LEFT]])) == [(0, 1, 0.3)]


@pytest.mark.parametrize("rule", ["argmax", "maxconf", "classwise"])
@pytest.mark.parametrize(("min_regions", "count"), [(0, 1), (1, 1), (2, 2), (4, 4), (9, 4)])
def test_min_score_and_min_regions_are_the_adaptive_rule(rule, min_regions, count):
    boxes = [(20 * place, 0, 20 * place + 10, 10) for place in range(4)]
    kept = select(rule, [[0.9], [0.1], [0.15], [0.05]], boxes, min_score=0.2, min_regions=min_regions)
    assert kept.proposals.tolist() == [0, 2, 1, 3][:count]


@pytest.mark.parametrize("rule", ["maxconf", "classwise"])
@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (5, 4)])
def test_shapes_for_none_one_and_more_than_max_regions(rule, count, kept):
    boxes = np.array([(20 * i, 0, 20 * i + 10, 10) for i in range(count)], np.float32).reshape(count, 1, 4)
    probabilities = np.tile(np.array([[0.3, 0.0, 0.0]]), (count, 1))
    found = select(rule, probabilities, boxes, max_regions=4, min_score=0.1)
    assert found.proposals.shape == found.labels.shape == found.scores.shape == found.background.shape == (kept,)
    assert found.boxes.shape == (kept, 4)


def slow_pairs(probabilities, boxes, threshold) -> list[tuple[float, int, int]]:
    """(score, proposal, class) of all that survive NMS, class by class and box by box."""
    survivors = []
    for label in range(probabilities.shape[1]):
        kept: list[int] = []
        for proposal in sorted(range(len(probabilities)), key=lambda one: (-probabilities[one, label], one)):
            box = boxes[proposal, label % boxes.shape[1]]
            if all(slow_iou(box, boxes[other, label % boxes.shape[1]]) <= threshold for other in kept):
                kept.append(proposal)
        survivors += [(float(probabilities[proposal, label]), proposal, label) for proposal in kept]
    return sorted(survivors, key=lambda one: (-one[0], one[1], one[2]))


def slow_iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    proposals=st.integers(1, 25),
    classes=st.integers(1, 12),
    per_class_boxes=st.booleans(),
    threshold=st.sampled_from([0.3, 0.5, 1.0]),
    max_regions=st.integers(1, 12),
    min_score=st.sampled_from([0.0, 0.05, 0.4]),
    min_regions=st.integers(0, 3),
)
def test_the_shortcut_finds_what_the_slow_class_loop_finds(
    seed, proposals, classes, per_class_boxes, threshold, max_regions, min_score, min_regions
):
    rng = np.random.default_rng(seed)
    # Tenths, so that scores tie; corners on a coarse grid, so that boxes coincide.
    probabilities = rng.integers(0, 10, (proposals, classes)) / np.float32(10 * classes)
    corner = rng.integers(0, 6, (proposals, classes if per_class_boxes else 1, 2)) * 6
    boxes = np.concatenate([corner, corner + rng.integers(1, 5, corner.shape) * 7], axis=2).astype(np.float32)
    pairs = slow_pairs(probabilities, boxes, threshold)
    once = [pair for place, pair in enumerate(pairs) if pair[1] not in [other[1] for other in pairs[:place]]]
    options = {"max_regions": max_regions, "min_score": min_score, "min_regions": min(min_regions, max_regions)}
    for rule, survivors in (("classwise", pairs), ("maxconf", once)):
        best = survivors[:max_regions]
        wanted = max(sum(score >= np.float32(min_score) for score, *_ in best), options["min_regions"])
        kept = select(rule, probabilities, boxes, nms_threshold=threshold, **options)
        expected = [(proposal, label) for _, proposal, label in best[:wanted]]
        assert list(zip(kept.proposals.tolist(), kept.labels.tolist(), strict=True)) == expected


def test_best_labels_come_best_first_and_the_lower_class_before_its_equal():
    labels, scores = best_labels(np.array([[0.1, 0.4, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]], np.float32), 3)
    assert labels.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert scores.tolist() == [pytest.approx([0.4, 0.2, 0.2]), pytest.approx([0.7, 0.1, 0.1])]
    assert best_labels(np.zeros((0, 4), np.float32), 3)[0].shape == (0, 3)
