"""Places of a batch and what is to be predicted there, and losses over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.batch import Movable
from model.objectives.config import PretrainConfig


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss, and how often the largest logit (N, C) is that of the label (N,)."""
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum().float()


def sum_of_vectors(errors: Tensor, config: PretrainConfig) -> Tensor:
    """Loss of N targets that are vectors, from errors (N, W) of their values: summed over targets.

    Over values by mean or by sum, see `PretrainConfig.vector_losses`.
    """
    return errors.mean(1).sum() if config.vector_losses == "mean" else errors.sum()


def states_at(states: Tensor, targets: Targets) -> Tensor:
    """Rows (N, H) of states (B, S, H) at the targets' positions."""
    return states.flatten(0, 1).index_select(0, targets.pairs * states.shape[1] + targets.places)


@dataclass(frozen=True)
class Targets(Movable):
    """N positions of a batch, and what is to be predicted at each: pairs and places (N,) i64, values (N, ...).

    A place counts within its own modality: word or region `places[n]` of pair `pairs[n]`. Values are labels (N,) i64,
    vectors (N, D) or distributions (N, C), f32. Made on the host, so that no step waits for a device to count them.
    """

    pairs: Tensor
    places: Tensor
    values: Tensor

    @classmethod
    def labels(cls, pairs: npt.ArrayLike, places: npt.ArrayLike, values: npt.ArrayLike) -> Targets:
        """With a label at each position."""
        return cls(*(torch.from_numpy(np.asarray(column, np.int64)) for column in (pairs, places, values)))

    @classmethod
    def positions(cls, mask: npt.NDArray[np.bool_]) -> Targets:
        """Where the mask (B, S) is True; the value 0, for losses that find theirs in the batch."""
        pairs, places = np.nonzero(mask)
        return cls.labels(pairs, places, np.zeros(len(pairs)))

    @classmethod
    def none(cls) -> Targets:
        return cls.labels([], [], [])

    def __len__(self) -> int:
        return len(self.pairs)
