"""Intersection over union of boxes, and when a box counts as the one that was meant.

Papers differ in both. UNITER asks for IoU > 0.5, and VL-BERT, MAttNet and lmms-eval for IoU >= 0.5. VL-BERT adds 1 to
every width and height, as if corners were the outermost pixels of a box.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from model.downstream.bootstrap import Values

IouRule = Literal["above", "at-least"]
Widths = Literal["plain", "plus-one"]

RULES: dict[IouRule, str] = {"above": "IoU > 0.5", "at-least": "IoU >= 0.5"}
WIDTHS: dict[Widths, str] = {"plain": "widths as they are", "plus-one": "1 pixel added to widths and heights"}


def corners(boxes: Values) -> Values:
    """Boxes (N, 4) given as corner, width and height, as (x0, y0, x1, y1)."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def iou(first: Values, second: Values, widths: Widths = "plain") -> Values:
    """Intersection over union (N,) of boxes (N, 4) with those of the same row; corners in pixels.

    Boxes without area have IoU 0.
    """
    one = float(widths == "plus-one")
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2]) + one
    shared = np.maximum(sides, 0).prod(1)
    union = _areas(first, one) + _areas(second, one) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _areas(boxes: Values, one: float) -> Values:
    areas: Values = np.maximum(boxes[:, 2:] - boxes[:, :2] + one, 0).prod(1)
    return areas


def is_found(overlaps: Values, rule: IouRule) -> Values:
    """1 where the overlap is enough, else 0."""
    found = overlaps > 0.5 if rule == "above" else overlaps >= 0.5
    return found.astype(np.float64)
