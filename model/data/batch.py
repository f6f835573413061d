"""Parts of a batch: regions and words as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Movable:
    """A record of tensors, or of other such records, that goes to a device as a whole (methods as Tensor's)."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return replace(
            self, **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        )

    def pin_memory(self) -> Self:
        """In page-locked memory, from which a GPU copies while the host goes on."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until this stream is done with it, though another one allocated it."""
        for f in fields(self):
            getattr(self, f.name).record_stream(stream)


@dataclass(frozen=True)
class _Rows(Movable):
    """Tensors that share their first dimension."""

    def take(self, index: Tensor) -> Self:
        """Select rows by position, repeats allowed."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Regions(_Rows):
    """Regions of B images, best score first, padded to R.

    Shapes: features (B, R, D) uint8 or f16; scales (B, R) f32; boxes (B, R, 4) f32 pixels; sizes (B, 2) f32 width and
    height; labels (B, R) i64; scores and background (B, R) f32; mask (B, R) bool, True where there is a region.
    """

    features: Tensor
    scales: Tensor
    boxes: Tensor
    sizes: Tensor
    labels: Tensor
    scores: Tensor
    background: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Words(_Rows):
    """Captions of B pairs, [CLS] words [SEP], padded to T: ids (B, T) i64 and mask (B, T) bool."""

    ids: Tensor
    mask: Tensor


def pad_words(rows: Sequence[npt.NDArray[np.int32]], pad_id: int) -> Words:
    """Pad rows of tokens to one rectangle."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.bool_)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = row
        mask[slot, : len(row)] = True
    return Words(torch.from_numpy(ids), torch.from_numpy(mask))
