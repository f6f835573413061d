"""Which regions of an image stay, and in what order. Numpy only, the same for every detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """The kept regions, best score first.

    Shapes: proposals (R,) index of the proposal that each region came from, whose vector is its feature;
    labels (R,) best foreground class; scores (R,) its probability; background (R,) probability of the background
    class; boxes (R, 4) refined for that class, (x0, y0, x1, y1) in pixels, inside the image.
    """

    proposals: Int
    labels: npt.NDArray[np.int16]
    scores: Float
    background: Float
    boxes: Float


def select_regions(
    probabilities: Float,
    background: Float,
    class_boxes: Float,
    size: tuple[int, int],
    *,
    nms_threshold: float,
    max_regions: int,
    min_score: float = 0.0,
    min_regions: int = 0,
) -> Selection:
    """The rule `argmax`: one region per proposal, its best foreground class, then one NMS over all of them.

    1. Each proposal takes its best foreground class (ties: the lower class) and the box refined for that class,
       clipped to the image. A box that clipping leaves without area is dropped.
    2. Class-agnostic NMS: from the best score down, a box goes if it overlaps a kept one by more than
       `nms_threshold`.
    3. The first `max_regions` stay; of them those below `min_score` go, except the first `min_regions`.

    Equal scores keep the order of the proposals. The background competes in the classifier but not here: a region
    whose background probability beats its score is kept, and says so. This is what airsplay's and Hugging Face's
    Visual Genome extractors do, except that theirs forget the background and raise the NMS threshold until enough
    boxes are left.

    Args:
        probabilities: (P, C) of the foreground classes, for each of P proposals.
        background: (P,) of the background class.
        class_boxes: (P, C, 4) box refined for each class, or (P, 1, 4) where refinement does not depend on it;
            pixels of the stored image.
        size: (width, height) of the stored image, pixels.
        nms_threshold: IoU in (0, 1].
        max_regions: most regions kept.
        min_score: in [0, 1].
        min_regions: kept even below `min_score`.

    Raises:
        ValueError: shapes disagree, or a value is not finite (the detector's weights are broken).
    """
    count = len(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0 or background.shape != (count,):
        raise ValueError(f"probabilities {probabilities.shape} and background {background.shape} do not fit")
    if class_boxes.shape not in ((count, probabilities.shape[1], 4), (count, 1, 4)):
        raise ValueError(f"class_boxes {class_boxes.shape} do not fit probabilities {probabilities.shape}")
    proposals = np.arange(count)
    labels = probabilities.argmax(axis=1)
    scores = probabilities[proposals, labels]
    boxes = class_boxes[proposals, labels if class_boxes.shape[1] > 1 else 0]
    if not (np.isfinite(scores).all() and np.isfinite(background).all() and np.isfinite(boxes).all()):
        raise ValueError("the detector gave a score or box that is not finite; check its weights")

    boxes = np.clip(boxes, 0, np.array([*size, *size], boxes.dtype))
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-scores, kind="stable")
    order = order[has_area[order]]
    order = order[suppress_overlaps(boxes[order], nms_threshold, max_regions)]
    wanted = max(int((scores[order] >= min_score).sum()), min_regions)
    order = order[:wanted]
    return Selection(
        proposals=order,
        labels=labels[order].astype(np.int16),
        scores=scores[order].astype(np.float32),
        background=background[order].astype(np.float32),
        boxes=boxes[order].astype(np.float32),
    )


def suppress_overlaps(boxes: Float, threshold: float, limit: int) -> Int:
    """Greedy non-maximum suppression of boxes (N, 4) that come best first and have an area.

    Returns:
        Indices of the kept boxes, ascending, at most `limit`. A box goes where its IoU with a kept one exceeds
        `threshold`; one that equals it stays.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == limit:
            break
        rest = boxes[index + 1 :]
        shared = np.minimum(rest[:, 2:], boxes[index, 2:]) - np.maximum(rest[:, :2], boxes[index, :2])
        intersection = shared.clip(min=0).prod(axis=1)
        union = areas[index + 1 :] + areas[index] - intersection
        alive[index + 1 :] &= intersection <= threshold * union
    return np.array(kept, np.int64)
