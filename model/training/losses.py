"""Losses as sums, so that the parts of a global batch add up to exactly the loss of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossSums:
    """The losses of one part of a global batch.

    The loop minimises sum_k sums[k] / max(count[k], 1), where count[k] is the number of targets of loss k in the
    whole global batch (`batch.counts`, added over all parts): a mean over parts of means would weigh the targets of
    a part with few of them too much, and the gradient would depend on how the batch was split.

    Shapes: names K; sums (K,) f32, each loss summed over this part's targets, already weighted; correct (K,) f32, how
    many of those targets the model got right, no gradient; NaN for a loss that has no right and wrong.
    """

    names: tuple[str, ...]
    sums: Tensor
    correct: Tensor
