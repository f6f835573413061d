"""Captions and images that read alike: they get one score, so that they tie and the tie counts.

Scored each by itself they differ by rounding (1e-6 in fp32, 1e-2 in bf16), and chance would say which one ranks first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from model.data.batch import Regions
from model.data.order import Index


def first_alike(items: Iterable[bytes]) -> Index:
    """For each item, the position of the first equal one: its own where there is none before it."""
    first: dict[bytes, int] = {}
    return np.fromiter((first.setdefault(item, number) for number, item in enumerate(items)), np.int64)


def image_digests(regions: Regions) -> list[bytes]:
    """Each image's sha256 over all that its scores depend on: features, scales and boxes of its regions, and its size.

    Images without regions are all alike: then nothing is read of their size either.
    """
    digests = []
    for image, count in enumerate(regions.mask.sum(1).tolist()):
        digest = hashlib.sha256()
        if count:
            read = (
                regions.features[image, :count],
                regions.scales[image, :count],
                regions.boxes[image, :count],
                regions.sizes[image],
            )
            for values in read:
                digest.update(values.contiguous().numpy().data)
        digests.append(digest.digest())
    return digests
