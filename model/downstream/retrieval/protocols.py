"""Protocols: the images over which recall is measured: `all`, `first:N` or `folds:N`.

Papers print COCO's "1K" rows under two protocols, and rarely say which: the first 1,000 of the 5,000 test images, or
the mean over the five thousands (VSE++, Faghri et al., BMVC 2018). With exactly 5,000 images the latter is folds:1000.
"""

from __future__ import annotations

import re

import numpy as np

from model.errors import InputError


def protocol_rows(protocol: str, images: int) -> list[range]:
    """The rows of each fold of a protocol, in the order of the matrix; one fold unless it says folds:N.

    folds:N cuts the images into round(images / N) folds, at least one, whose sizes differ by one at most: no image is
    left over, and with exactly five times N images these are the five runs of N that others use.

    Raises:
        InputError: no such protocol, or it wants more images than there are.
    """
    if protocol == "all":
        return [range(images)]
    match = re.fullmatch(r"(first|folds):([1-9][0-9]*)", protocol)
    if match is None:
        raise InputError(f"recall protocol {protocol!r} is none of all, first:N and folds:N; name one of these")
    size = int(match[2])
    if match[1] == "folds":
        cut = np.array_split(np.arange(images), max(round(images / size), 1))
        return [range(int(rows[0]), int(rows[-1]) + 1) for rows in cut]
    if size > images:
        raise InputError(f"recall protocol {protocol} wants {size:,} images, but {images:,} were scored; ask for fewer")
    return [range(size)]


def protocol_name(protocol: str, images: int, captions: int, folds: int, split_images: int | None) -> str:
    """The protocol in words, such as "mean of 5 folds of 1,000 images (25,010 captions in all)".

    Args:
        images, captions: those the protocol measured, over all folds.
        split_images: all that were scored; None where it is not known.
    """
    texts = _count(captions, "caption")
    if protocol.startswith("first:"):
        of = "" if split_images is None else f" of {split_images:,}"
        noun = "image" if (split_images or images) == 1 else "images"
        return f"the first {images:,}{of} {noun} x {texts}"
    if folds > 1:
        small, larger = divmod(images, folds)
        size = f"{small:,} or {small + 1:,} images" if larger else _count(small, "image")
        return f"mean of {folds} folds of {size} ({texts} in all)"
    return f"{_count(images, 'image')} x {texts}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
