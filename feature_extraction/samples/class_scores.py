"""A region's distribution over the classes: in one byte a class, or from its best classes alone. Numpy only.

Index 0 of a distribution is the background, index 1 + c the foreground class c. A record holds the background's
probability in half precision anyway; the foreground is stored relative to its largest value:

    q_c = round(255 (p_c / max p)^(1/4))        p_c = (1 - background) q_c^4 / sum q^4

so that a decoded row sums to 1. Fourth roots keep small probabilities: a class is lost below 1.5e-11 of the best one.
On softmax outputs of 1,601 and 81 random logits with standard deviations from 1 to 8, the total variation from the
exact row was .0008 to .0043 on average and .0054 at most, and KL(decoded || exact) 7e-5 on average and 1.3e-4 at most.
Square roots, at the same size, came to .0128 and 2.6e-3 at most; half precision, at twice the size, to .0002 and 6e-6.
On the outputs of the demo's trained detector on 16 photographs it was .0002 on average and .0021 at most, KL 2.4e-4 at
most: there the half float of a background near 1 decides (`python -m tests.bench class_scores`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

SUM_TOLERANCE = 0.01
"""How far from 1 a row may sum that is to be stored. Half precision brings sums of 1,601 values within 0.001."""


def quantise_class_scores(class_scores: Float) -> Codes:
    """Encode the foreground of distributions (R, 1 + C) in one byte a class, (R, C)."""
    foreground = class_scores[:, 1:]
    largest = foreground.max(axis=1, initial=0.0)
    relative = foreground / np.where(largest > 0, largest, 1).astype(np.float32)[:, None]
    return np.rint(255.0 * np.sqrt(np.sqrt(relative))).astype(np.uint8)


def dequantise_class_scores(codes: Codes, background: Float) -> Float:
    """Invert `quantise_class_scores` within its error; every row sums to 1. Training does this in torch instead.

    Args:
        codes: (..., C).
        background: (...) probability of the background. Where all codes are 0 it is certain.

    Returns:
        (..., 1 + C).
    """
    out = np.empty((*codes.shape[:-1], codes.shape[-1] + 1), np.float32)
    foreground = out[..., 1:]
    foreground[...] = np.square(np.square(codes.astype(np.float32)))
    total = foreground.sum(-1)
    foreground *= ((1 - background) / np.where(total > 0, total, 1)).astype(np.float32)[..., None]
    out[..., 0] = np.where(total > 0, background, 1)
    return out


def spread_best_classes(top_labels: npt.NDArray[np.int16], top_scores: Float, background: Float, out: Float) -> None:
    """Approximate distributions from the best classes: what they leave is spread evenly over the others.

    Args:
        top_labels: (..., K) foreground classes, from 0.
        top_scores: (..., K) their probabilities.
        background: (...) probability of the background. Where there is no other it is certain.
        out: (..., 1 + C) filled with the distributions; every row sums to 1.
    """
    others = out.shape[-1] - 1 - top_labels.shape[-1]
    known = top_scores.sum(-1)
    rest = np.maximum(1 - background - known, 0) if others else np.zeros_like(known)
    total = known + rest
    scale = ((1 - background) / np.where(total > 0, total, 1)).astype(np.float32)
    out[...] = (rest * scale / max(1, others))[..., None]
    np.put_along_axis(out, top_labels.astype(np.int64) + 1, top_scores * scale[..., None], axis=-1)
    out[..., 0] = np.where(total > 0, background, 1)
