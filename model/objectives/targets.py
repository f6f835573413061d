"""Places whose words or labels are to be predicted, and the loss over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.batch import Movable


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss, and how often the largest logit (N, C) is that of the label (N,)."""
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum().float()


def states_at(states: Tensor, targets: Targets) -> Tensor:
    """Rows (N, H) of states (B, S, H) at the targets' positions."""
    return states.flatten(0, 1).index_select(0, targets.pairs * states.shape[1] + targets.places)


@dataclass(frozen=True)
class Targets(Movable):
    """N positions of a batch and what is to be predicted there: pairs, places and labels, (N,) i64 each.

    A place counts within its own modality: word or region `places[n]` of pair `pairs[n]`. Made on the host, so that
    no step waits for a device to count its targets.
    """

    pairs: Tensor
    places: Tensor
    labels: Tensor

    @classmethod
    def of(cls, pairs: npt.ArrayLike, places: npt.ArrayLike, labels: npt.ArrayLike) -> Targets:
        return cls(*(torch.from_numpy(np.asarray(values, np.int64)) for values in (pairs, places, labels)))

    def __len__(self) -> int:
        return len(self.labels)
