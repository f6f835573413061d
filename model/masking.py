"""Which words and regions are hidden. Pure numpy; every choice comes from the generator given."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

IGNORE = -100
"""Target of a position that is not predicted (the default of torch's cross entropy)."""

KEPT, ZEROED, NOISED, SWAPPED = range(4)
"""What becomes of a region's feature."""

Purpose = Literal["order", "matching", "masking", "negatives"]
_PURPOSES: tuple[Purpose, ...] = ("order", "matching", "masking", "negatives")


def generator(seed: int, purpose: Purpose, epoch: int, sample: int = 0) -> np.random.Generator:
    """The random stream of one sample in one epoch: the same whatever the batch, rank or worker.

    Counter-based (Philox), so that making one costs microseconds and no two streams overlap.
    """
    return np.random.Generator(
        np.random.Philox(key=[seed, _PURPOSES.index(purpose)], counter=np.array([0, 0, sample, epoch], np.uint64))
    )


def mask_words(
    ids: npt.NDArray[np.int32],
    rng: np.random.Generator,
    rate: float,
    mask_id: int,
    word_ids: npt.NDArray[np.int32],
    is_special: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """BERT's masking: `rate` of the word pieces are targets; 80% become [MASK], 10% a random word, 10% stay.

    Unicoder-VL section 3.2. At least one piece of a caption that has any is a target (as UNITER does), so short
    captions always teach something. Special tokens are never targets.

    Args:
        ids: (T,) with [CLS] and [SEP].
        word_ids: ids that a random word is drawn from.
        is_special: (V,) True for special tokens.

    Returns:
        Inputs (T,) and targets (T,), IGNORE where nothing is predicted.
    """
    targets = np.full(len(ids), IGNORE, np.int64)
    candidates = np.flatnonzero(~is_special[ids])
    if len(candidates) == 0:
        return ids, targets
    chosen = candidates[rng.random(len(candidates)) < rate]
    if len(chosen) == 0:
        chosen = candidates[rng.integers(len(candidates), size=1)]
    targets[chosen] = ids[chosen]
    inputs = ids.copy()
    draw = rng.random(len(chosen))
    inputs[chosen[draw < 0.8]] = mask_id
    swapped = chosen[(draw >= 0.8) & (draw < 0.9)]
    inputs[swapped] = word_ids[rng.integers(len(word_ids), size=len(swapped))]
    return inputs, targets


def mask_regions(
    labels: npt.NDArray[np.int16],
    usable: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    rate: float,
    rule: Literal["zeros", "noise"],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """`rate` of the regions are hidden; the detector's label is the target where it is usable.

    zeros: 90% zeroed, 10% kept (AAAI version). noise: 80% replaced by noise, 10% by another region of the batch,
    10% kept (first version).

    Args:
        labels: (R,) the detector's classes.
        usable: (R,) False where the detector saw background or was unsure: masked, but never a target.

    Returns:
        What becomes of each feature (R,), one of KEPT, ZEROED, NOISED, SWAPPED; and targets (R,).
    """
    fate = np.full(len(labels), KEPT, np.int8)
    targets = np.full(len(labels), IGNORE, np.int64)
    chosen = np.flatnonzero(rng.random(len(labels)) < rate)
    predicted = chosen[usable[chosen]]
    targets[predicted] = labels[predicted]
    draw = rng.random(len(chosen))
    if rule == "zeros":
        fate[chosen[draw < 0.9]] = ZEROED
    else:
        fate[chosen[draw < 0.8]] = NOISED
        fate[chosen[(draw >= 0.8) & (draw < 0.9)]] = SWAPPED
    return fate, targets
