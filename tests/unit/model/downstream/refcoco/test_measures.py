"""IoU by hand and by VL-BERT's code, and the two rules about an IoU of exactly 0.5."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model.downstream.refcoco.boxes import corners, iou
from model.downstream.refcoco.measures import Expression, refcoco_figures
from tests.task_files import text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 5, 10], 0.5),
        ([0, 0, 10, 10], [5, 5, 10, 10], 25 / 175),
        ([0, 0, 4, 4], [2, 0, 4, 4], 1 / 3),
        ([0, 0, 4, 4], [4, 0, 4, 4], 0),
        ([0, 0, 4, 4], [9, 9, 4, 4], 0),
        ([3, 1, 2, 7], [3, 1, 2, 7], 1),
        ([3, 1, 0, 0], [3, 1, 0, 0], 0),
    ],
)
def test_iou_of_boxes_given_by_corner_and_size(first: list[float], second: list[float], expected: float) -> None:
    boxes = corners(np.array([first, second], np.float64))
    assert iou(boxes[:1], boxes[1:])[0] == pytest.approx(expected)


def test_with_a_pixel_added_to_widths_it_is_vl_berts() -> None:
    values = json.loads(text("vlbert_values.json"))["iou"]
    boxes = np.array(values["boxes"])
    targets = np.tile(values["target"], (len(boxes), 1))
    assert iou(boxes, targets, "plus-one") == pytest.approx(values["expected"], rel=1e-6)
    assert np.abs(iou(boxes, targets) - values["expected"]).min() > 1e-3


def test_half_is_right_by_one_rule_and_wrong_by_the_other() -> None:
    expressions = [Expression(1, 1, "a", (0, 0, 10, 10)), Expression(2, 2, "b", (0, 0, 10, 10))]
    boxes = np.array([[0, 0, 5, 10], [0, 0, 6, 10]], np.float64)
    above, at_least = refcoco_figures(expressions, boxes), refcoco_figures(expressions, boxes, "at-least")
    assert (above.figures["accuracy"].value, at_least.figures["accuracy"].value) == (0.5, 1.0)
    assert above.protocol == "IoU > 0.5, widths as they are: 2 expressions about 2 pictures"
    added = refcoco_figures(expressions, boxes, "above", "plus-one")  # 66 / 121 and 77 / 121
    assert added.figures["accuracy"].value == 1.0 and "1 pixel added" in added.protocol
