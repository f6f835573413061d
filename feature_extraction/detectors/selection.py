"""The three rules that select and order an image's regions, the same for every detector.

Numpy on the host, but for torchvision's suppression of overlaps. A GPU does not wait for it: the next batch
is detected meanwhile (see `extract`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Rule = Literal["argmax", "maxconf", "classwise"]

_Pairs = tuple[Int, Int]
"""Proposals and classes, one of each per (proposal, class) pair, best score first."""


@dataclass(frozen=True)
class Selection:
    """The kept regions, best score first.

    Shapes: proposals (R,) index of the proposal that each region came from; labels (R,) its foreground class;
    scores (R,) the probability of that class; background (R,) probability of the background class; boxes (R, 4) of
    that class, (x0, y0, x1, y1) in pixels, inside the image.
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
    rule: Rule = "argmax",
    nms_threshold: float,
    max_regions: int,
    min_score: float = 0.0,
    min_regions: int = 0,
) -> Selection:
    """Select the best regions of an image by one of three rules.

    All of them clip boxes to the image, pass over a box that clipping leaves without area, and suppress, from the
    best score down, each box that overlaps a kept one by more than `nms_threshold`. They differ in what competes:

    `argmax`: one region per proposal, its best foreground class, and one NMS over all of them, whatever their class.
        This is what airsplay's and Hugging Face's Visual Genome extractors do, except that theirs forget the
        background and raise the NMS threshold until enough boxes are left.
    `maxconf`: NMS within each class over all proposals; then one region per proposal, the best of its classes that
        survived. The rule of bottom-up-attention, which takes the label anew from all classes, suppressed or not.
        A proposal of which no class survived is passed over.
    `classwise`: NMS within each class; then one region per surviving (proposal, class) pair, so a proposal may come
        more than once. Detectron2's own rule.

    The best `max_regions` stay; of them those below `min_score` go, except the first `min_regions`. Equal scores keep
    the order of the proposals, then of the classes. The background competes in the classifier but not here: a
    region whose background probability beats its score is kept, and says so.

    Args:
        probabilities: (P, C) of the foreground classes, for each of P proposals.
        background: (P,) of the background class.
        class_boxes: (P, C, 4) box for each class, or (P, 1, 4) where it does not depend on the class; pixels of the
            stored image.
        size: (width, height) of the stored image, pixels.
        rule: which of the three.
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
    if not all(np.isfinite(values).all() for values in (probabilities, background, class_boxes)):
        raise ValueError("the detector gave a score or box that is not finite; check its weights")

    boxes = np.clip(class_boxes, 0, np.array([*size, *size], class_boxes.dtype))
    if rule == "argmax":
        proposals, labels = _best_class_pairs(probabilities, boxes)
        kept = suppress_overlaps(_boxes_of(boxes, proposals, labels), nms_threshold)[:max_regions]
        proposals, labels = proposals[kept], labels[kept]
    else:
        proposals, labels = _per_class(
            probabilities, boxes, nms_threshold, rule == "maxconf", max_regions, min_score, min_regions
        )
    wanted = max(int((probabilities[proposals, labels] >= min_score).sum()), min_regions)
    proposals, labels = proposals[:wanted], labels[:wanted]
    return Selection(
        proposals=proposals,
        labels=labels.astype(np.int16),
        scores=probabilities[proposals, labels].astype(np.float32),
        background=background[proposals].astype(np.float32),
        boxes=_boxes_of(boxes, proposals, labels).astype(np.float32),
    )


def best_labels(probabilities: Float, count: int) -> tuple[npt.NDArray[np.int16], Float]:
    """The `count` best classes of each row of (R, C), best first, with their probabilities.

    Of equal ones the lower class comes first.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return order.astype(np.int16), np.take_along_axis(probabilities, order, axis=1).astype(np.float32)


def suppress_overlaps(boxes: Float, threshold: float, groups: Int | None = None) -> Int:
    """Greedy non-maximum suppression of boxes (N, 4), given best first.

    Args:
        boxes: pixels of one image.
        threshold: IoU; a box goes where it overlaps a kept one by more, and one that equals it stays.
        groups: (N,) from 0; boxes of different groups do not compete. None: all of them do.

    Returns:
        Indices of the kept boxes, ascending.
    """
    apart = boxes.astype(np.float64)
    if groups is not None and len(boxes):
        # Each group is moved to a place of its own. Doubles are exact there: single precision would round the boxes
        # of the 1,600th class to an eighth of a pixel.
        apart += (groups * (1.0 + float(boxes.max() - boxes.min())))[:, None]
    falling = -torch.arange(len(boxes), dtype=torch.float64)
    kept: Int = nms(torch.from_numpy(apart), falling, threshold).numpy()
    return kept


def _best_class_pairs(probabilities: Float, boxes: Float) -> _Pairs:
    """Each proposal with its best class, where that class's box has an area.

    Of equal classes the lower one counts.
    """
    labels = probabilities.argmax(axis=1)
    proposals = np.arange(len(labels))
    order = np.argsort(-probabilities[proposals, labels], kind="stable")
    order = order[_have_area(_boxes_of(boxes, proposals, labels)[order])]
    return order, labels[order]


def _per_class(
    probabilities: Float,
    boxes: Float,
    threshold: float,
    once: bool,
    max_regions: int,
    min_score: float,
    min_regions: int,
) -> _Pairs:
    """The best `max_regions` pairs that survive NMS within their class.

    `once`: only the best pair of each proposal.

    Of hundreds of thousands of pairs a few hundred matter. A pair is suppressed by better ones alone, so what happens
    above any score does not depend on what lies below it: only pairs above a score are looked at, which falls until
    enough survive above it. Pairs may be missing where they would be dropped for `min_score` anyway.
    """
    scores = np.where(_have_area(boxes), probabilities, -1).ravel()
    num_pairs = int((scores >= 0).sum())
    looked_at = 4 * max_regions
    while True:
        looked_at = min(looked_at, num_pairs)
        floor = np.partition(scores, -looked_at)[-looked_at] if looked_at else np.inf
        above = np.flatnonzero(scores >= floor)
        above = above[np.argsort(-scores[above], kind="stable")]
        proposals, labels = np.divmod(above, probabilities.shape[1])
        survive = suppress_overlaps(_boxes_of(boxes, proposals, labels), threshold, labels)
        proposals, labels = proposals[survive], labels[survive]
        if once:
            _, first = np.unique(proposals, return_index=True)
            first.sort()
            proposals, labels = proposals[first], labels[first]
        dropped_below = floor <= min_score and len(proposals) >= min_regions
        if len(proposals) >= max_regions or dropped_below or looked_at == num_pairs:
            return proposals[:max_regions], labels[:max_regions]
        looked_at *= 4


def _boxes_of(boxes: Float, proposals: Int, labels: Int) -> Float:
    """The boxes (N, 4) of N pairs; all classes of a proposal may share one box."""
    return boxes[proposals, labels if boxes.shape[1] > 1 else 0]


def _have_area(boxes: Float) -> npt.NDArray[np.bool_]:
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
