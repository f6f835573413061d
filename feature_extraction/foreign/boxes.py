"""The unit of other programs' boxes: pixels, or shares of width and height. Their files do not say it.

`tell_box_form` looks at the first pictures of a file; what is neither, or may be either, is refused with what it looks
like. `in_form` reads one picture's boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import ForeignRegions
from feature_extraction.samples.regions import Float

logger = logging.getLogger(__name__)

BoxForm = Literal["pixels", "normalised"]

LARGEST_SHARE = 1.1
"""Detectors may place a corner slightly outside of the picture."""
_BEYOND = 0.02  # A share of the side. A box that reaches this far out of its picture was measured in another one.
_MOST = 0.5
_MANY_PICTURES, _MANY_BOXES = 8, 10
_SELDOM_REACHED = 0.8  # A share of the side: among many boxes, one nearly always ends at the border of its picture.
_AS_THEY_ARE = "to take them as they are, give --boxes pixels"


@dataclass(frozen=True)
class _Boxes:
    """The boxes of one picture, and its (width, height)."""

    image_id: str
    boxes: Float
    size: tuple[int, int]


def tell_box_form(pictures: Sequence[ForeignRegions]) -> BoxForm:
    """The unit of a file's boxes, told from some of its pictures; pixels where nothing tells.

    Raises:
        ForeignError: they are shares in some pictures and pixels in others; or width and height take the place of the
            second corner, x and y are exchanged, or the boxes are of pictures of another size.
    """
    known = [
        regions
        for regions in pictures
        if not regions.relative and np.isfinite(regions.boxes).all() and np.abs(regions.boxes).max(initial=0) > 0
    ]
    shares = [regions for regions in known if _are_shares(regions)]
    if shares and len(shares) < len(known):
        raise ForeignError(
            f"boxes of {len(shares)} of {len(known)} pictures lie between 0 and 1, such as those of "
            f"{shares[0].image_id!r}, and others do not: they may be shares of width and height, or pixels; say which "
            "with --boxes normalised or --boxes pixels"
        )
    sizes = [(1, 1) if shares else regions.size for regions in known]
    scaled = [
        _Boxes(regions.image_id, regions.boxes, size)
        for regions, size in zip(known, sizes, strict=True)
        if size is not None
    ]
    _check_corners(scaled)
    _check_fit(scaled)
    return "normalised" if shares else "pixels"


def in_form(regions: ForeignRegions, form: BoxForm, is_certain: bool = False) -> ForeignRegions:
    """Read regions with their boxes in the given unit.

    Args:
        regions: as their reader gives them; those that are known to be shares stay so.
        form: what `tell_box_form` found, or the user says.
        is_certain: the user says it, so that a picture whose boxes lie in its first pixel is believed.

    Raises:
        ForeignError: the boxes of this picture are measured otherwise than those of the others.
    """
    furthest = float(regions.boxes.max(initial=0))
    if (regions.relative or form == "normalised") and furthest > LARGEST_SHARE:
        raise ForeignError(f"boxes reach {furthest:.6g}, but shares of width and height end at 1")
    if form == "pixels" and not is_certain and not regions.relative and _are_shares(regions):
        raise ForeignError(
            f"all boxes lie between 0 and 1, in the first pixel of the picture, and those of others do not; if they "
            f"are right, import with --boxes {form}"
        )
    return replace(regions, relative=True) if form == "normalised" else regions


def _are_shares(regions: ForeignRegions) -> bool:
    """True where no box leaves the first pixel of a picture with more than one.

    Boxes of nothing but zeros do not count.
    """
    if regions.size is not None and max(regions.size) == 1:
        return False
    return 0 < float(np.abs(regions.boxes).max(initial=0)) <= LARGEST_SHARE


def _check_corners(pictures: Sequence[_Boxes]) -> None:
    """Raise where boxes are (x, y, width, height): some end before they begin, and read so all of them fit."""
    turned = [item for item in pictures if (item.boxes[:, 2:] < item.boxes[:, :2]).any()]
    if not turned:
        return
    corners = [replace(item, boxes=_corners(item.boxes)) for item in pictures]
    if not any(_leaves(item) or (item.boxes[:, 2:] < item.boxes[:, :2]).any() for item in corners):
        raise ForeignError(
            f"boxes are (x, y, width, height), it seems: some of {turned[0].image_id!r} end before they begin if they "
            "are (x0, y0, x1, y1); write them as corners"
        )


def _corners(boxes: Float) -> Float:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _check_fit(pictures: Sequence[_Boxes]) -> None:
    """Raise where the boxes of most pictures leave them."""
    outside = [item for item in pictures if _leaves(item)]
    if len(outside) <= _MOST * len(pictures):
        _warn_of_small(pictures)
        return
    first = outside[0]
    right, low = first.boxes.max(axis=0)[2:]
    seen = (
        f"boxes of {len(outside)} of {len(pictures)} pictures leave them, such as of {first.image_id!r}, which is "
        f"{first.size[0]} x {first.size[1]} and whose boxes reach {right:.6g} and {low:.6g}"
    )
    if not any(_leaves(replace(item, size=item.size[::-1])) for item in pictures):
        raise ForeignError(f"{seen}: x and y are exchanged, or width and height; {_AS_THEY_ARE}")
    raise ForeignError(
        f"{seen}: they were measured in pictures of another size than the stated one; write that size, or, "
        f"{_AS_THEY_ARE}"
    )


def _warn_of_small(pictures: Sequence[_Boxes]) -> None:
    full = [item for item in pictures if len(item.boxes) >= _MANY_BOXES]
    if len(full) < _MANY_PICTURES:
        return
    right, low = np.max([item.boxes.max(axis=0)[2:] / item.size for item in full], axis=0)
    if max(right, low) < _SELDOM_REACHED:
        logger.warning(
            "boxes of the first %d pictures reach no further than %.0f%% of their width and %.0f%% of their height: "
            "are they of pictures of the stated size, and not of smaller ones?",
            len(full), 100 * right, 100 * low,
        )  # fmt: skip


def _leaves(item: _Boxes) -> bool:
    """True where a box reaches out of its picture by more than a detector's rounding."""
    limit = np.array([*item.size, *item.size], np.float32) * np.float32(1 + _BEYOND) + 1 * (max(item.size) > 1)
    return bool((item.boxes > limit).any())
