"""Recall of a random ranking."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, fsum


def chance_of_a_caption(captions_per_image: Sequence[int], k: int) -> float:
    """Share of the images that find one of their captions among k drawn at random."""
    captions = sum(captions_per_image)
    depth = min(k, captions)
    orders = comb(captions, depth)
    missed = {c: comb(captions - c, depth) for c in set(captions_per_image)}
    return fsum((orders - missed[c]) / orders for c in captions_per_image) / len(captions_per_image)
