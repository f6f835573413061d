import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.detectors.selection import Selection, select_regions, suppress_overlaps

SIZE = (100, 80)
LEFT, RIGHT, BOTTOM = (0, 0, 20, 20), (50, 0, 70, 20), (0, 50, 20, 70)


def select(probabilities, class_boxes, background=None, **rule) -> Selection:
    """Selection with each proposal's one box for all classes, unless boxes per class are given."""
    probabilities = np.array(probabilities, np.float32)
    boxes = np.array(class_boxes, np.float32)
    if boxes.ndim == 2:
        boxes = boxes[:, None]
    if background is None:
        background = 1 - probabilities.sum(axis=1)
    rule = {"nms_threshold": 0.5, "max_regions": 10} | rule
    return select_regions(probabilities, np.array(background, np.float32), boxes, SIZE, **rule)


def slow_iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_each_proposal_takes_its_best_foreground_class_and_that_class_s_box():
    per_class = [[LEFT, RIGHT], [BOTTOM, (60, 60, 80, 80)]]
    kept = select([[0.1, 0.7], [0.5, 0.2]], per_class)
    assert kept.labels.tolist() == [1, 0]
    assert kept.boxes.tolist() == [list(map(float, RIGHT)), list(map(float, BOTTOM))]
    assert kept.scores == pytest.approx([0.7, 0.5])


def test_background_is_kept_and_does_not_compete():
    kept = select([[0.1, 0.05]], [LEFT], background=[0.85])
    assert kept.labels.tolist() == [0]
    assert kept.scores == pytest.approx([0.1])
    assert kept.background == pytest.approx([0.85])


def test_regions_come_best_score_first_with_the_proposal_each_came_from():
    kept = select([[0.3], [0.9], [0.6]], [LEFT, RIGHT, BOTTOM])
    assert kept.proposals.tolist() == [1, 2, 0]
    assert kept.scores == pytest.approx([0.9, 0.6, 0.3])


def test_equal_scores_keep_the_order_of_proposals():
    kept = select([[0.5], [0.5], [0.5]], [RIGHT, LEFT, BOTTOM])
    assert kept.proposals.tolist() == [0, 1, 2]


def test_nms_is_class_agnostic_and_the_better_box_stays():
    nearly_left = (1, 0, 21, 20)  # IoU 19/21
    kept = select([[0.4, 0.0], [0.0, 0.8]], [LEFT, nearly_left])
    assert kept.proposals.tolist() == [1]


def test_a_box_whose_overlap_equals_the_threshold_stays():
    half = (0, 0, 20, 10)  # IoU with LEFT is exactly .5
    assert select([[0.9], [0.8]], [LEFT, half]).proposals.tolist() == [0, 1]
    assert select([[0.9], [0.8]], [LEFT, half], nms_threshold=0.49).proposals.tolist() == [0]


def test_a_suppressed_box_suppresses_nothing():
    # Along a line, each overlaps the next by 14/26 and the one after it by 8/32.
    boxes = [(0, 0, 20, 20), (6, 0, 26, 20), (12, 0, 32, 20)]
    assert select([[0.9], [0.8], [0.7]], boxes).proposals.tolist() == [0, 2]


def test_boxes_are_clipped_to_the_image():
    kept = select([[0.9]], [(-5, -7, 120, 90)])
    assert kept.boxes.tolist() == [[0, 0, 100, 80]]


def test_a_box_outside_the_image_is_dropped():
    kept = select([[0.9], [0.5]], [(110, 10, 130, 30), LEFT])
    assert kept.proposals.tolist() == [1]


def test_no_more_than_max_regions():
    kept = select([[0.3], [0.9], [0.6]], [LEFT, RIGHT, BOTTOM], max_regions=2)
    assert kept.proposals.tolist() == [1, 2]


@pytest.mark.parametrize(("min_regions", "expected"), [(0, [1]), (1, [1]), (2, [1, 2]), (3, [1, 2, 0]), (9, [1, 2, 0])])
def test_min_score_drops_regions_down_to_min_regions(min_regions, expected):
    kept = select([[0.3], [0.9], [0.4]], [LEFT, RIGHT, BOTTOM], min_score=0.5, min_regions=min_regions)
    assert kept.proposals.tolist() == expected


def test_a_score_that_equals_min_score_stays():
    assert select([[0.5]], [LEFT], min_score=0.5).proposals.tolist() == [0]


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (5, 4)])
def test_shapes_for_none_one_and_more_than_max_regions(count, kept):
    boxes = np.array([(20 * i, 0, 20 * i + 10, 10) for i in range(count)], np.float32).reshape(count, 1, 4)
    selection = select(np.full((count, 3), 0.2), boxes, max_regions=4)
    assert selection.proposals.shape == selection.labels.shape == selection.scores.shape == (kept,)
    assert selection.background.shape == (kept,)
    assert selection.boxes.shape == (kept, 4)
    assert selection.labels.dtype == np.int16
    assert selection.boxes.dtype == selection.scores.dtype == np.float32


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_finite_are_errors(broken):
    with pytest.raises(ValueError, match="not finite"):
        select([[broken]], [LEFT], background=[0.1])
    with pytest.raises(ValueError, match="not finite"):
        select([[0.5]], [(0, 0, broken, 9)])


def test_shapes_that_disagree_are_errors():
    with pytest.raises(ValueError, match="class_boxes"):
        select([[0.5, 0.2, 0.1]], [[LEFT, RIGHT]])
    with pytest.raises(ValueError, match="background"):
        select([[0.5]], [LEFT], background=[0.1, 0.2])


places = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2))


@settings(deadline=None, max_examples=80)
@given(st.lists(places, max_size=30), st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]), st.booleans())
def test_nms_agrees_with_the_obvious_loop(corner_sizes, threshold, apart):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in corner_sizes], np.float32).reshape(-1, 4)
    groups = np.array([group for *_, group in corner_sizes], np.int64)
    expected: list[int] = []
    for index, box in enumerate(boxes.astype(np.float64)):
        rivals = [other for other in expected if not apart or groups[other] == groups[index]]
        if all(slow_iou(box, boxes[other]) <= threshold for other in rivals):
            expected.append(index)
    assert suppress_overlaps(boxes, threshold, groups if apart else None).tolist() == expected


def test_boxes_of_far_groups_are_compared_to_the_last_bit():
    box = (1000.0, 1000.0, 1000.125, 1000.125)
    boxes = np.array([box, (1000.0, 1000.0, 1000.125, 1000.0625)], np.float32)
    groups = np.full(2, 1599)
    assert suppress_overlaps(boxes, 0.5, groups).tolist() == [0, 1]
    assert suppress_overlaps(boxes, 0.499, groups).tolist() == [0]
