"""Parts of a batch: regions and words as padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Movable:
    """A record of tensors, other such records, or dicts of either, that moves as a whole (methods as Tensor's).

    A field may be None.
    """

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from which a GPU copies while the host goes on."""
        return self._each(lambda part: part.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until this stream is done with it, though another one allocated it."""
        for value in self.given().values():
            for part in value.values() if isinstance(value, dict) else (value,):
                part.record_stream(stream)

    def given(self) -> dict[str, Any]:
        """The fields that are not None, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def _each(self, move: Callable[[Any], Any]) -> Self:
        moved = {
            name: {key: move(part) for key, part in value.items()} if isinstance(value, dict) else move(value)
            for name, value in self.given().items()
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Rows(Movable):
    """Tensors that share their first dimension; some may be None."""

    def take(self, index: Tensor) -> Self:
        """Select rows by position, repeats allowed."""
        return replace(self, **{name: value[index] for name, value in self.given().items()})


R = TypeVar("R", bound=Rows)


def join_rows(parts: Sequence[R]) -> R:
    """The rows of all parts, one after the other."""
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].given()})


@dataclass(frozen=True)
class Regions(Rows):
    """Regions of B images, best score first, padded to R.

    Shapes: features (B, R, D) uint8 or f16; scales (B, R) f32; boxes (B, R, 4) f32 pixels; sizes (B, 2) f32 width and
    height; labels (B, R) i64; scores and background (B, R) f32; mask (B, R) bool, True where there is a region; types
    (B, R) i64, rows of the family's type table, None where all are of one image; class_scores (B, R, 1 + C) f32, each
    region's distribution over the classes, background first, None where nothing asked for them (`FeatureStore.read`):
    the detector's own, or an approximation by its best classes.

    For families that have the whole picture as a region of its own: whole (B, D) f32 is its feature by the detector,
    None where it is the mean of its regions'; counted (B, R) bool are those that it is the mean of, where a sequence
    has no room for all, None where these are those of `mask`.
    """

    features: Tensor
    scales: Tensor
    boxes: Tensor
    sizes: Tensor
    labels: Tensor
    scores: Tensor
    background: Tensor
    mask: Tensor
    types: Tensor | None = None
    class_scores: Tensor | None = None
    whole: Tensor | None = None
    counted: Tensor | None = None


@dataclass(frozen=True)
class Words(Rows):
    """Captions of B pairs, [CLS] words [SEP], padded to T: ids (B, T) i64 and mask (B, T) bool.

    types (B, T) i64 are rows of the family's type table; None where all words are of one text. tags (B, T) i64: words
    of an object carry its place among the regions plus 1, all others 0, the whole picture (VL-BERT); None: all 0.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None = None
    tags: Tensor | None = None


def pad_words(rows: Sequence[npt.NDArray[np.int32]], pad_id: int) -> Words:
    """Pad rows of tokens to one rectangle."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.bool_)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = row
        mask[slot, : len(row)] = True
    return Words(torch.from_numpy(ids), torch.from_numpy(mask))
