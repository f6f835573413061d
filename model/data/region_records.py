"""Region records of a shard, many at a time: their faults, and their fields as tensors."""

from __future__ import annotations

import math
import threading
import weakref
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feature_extraction.samples.class_scores import spread_best_classes
from feature_extraction.samples.regions import RegionLayout, RegionSample, decode_layout, encode_regions
from feature_extraction.samples.tars import ShardError
from model.config import AdaptiveRegions
from model.data.batch import Regions
from model.data.shards import NAME_BYTES, TAR_HEADER

Bytes = npt.NDArray[np.uint8]

HEAD_BYTES = TAR_HEADER + 64
"""Tar header and record header: enough to tell whose record it is and whether it fits the manifest."""
_SIZE_FIELD, _VALID_FIELD, _TOP_FIELD, _BOXES_FIELD = 12, 20, 24, 64
"""Places of the width and height, the number of regions, T and with it C, and the boxes."""
_BUFFERS_KEPT = 4
_SHOWN_BYTES = 24


def find_fault(heads: Bytes, names: npt.NDArray[np.bytes_], layout: RegionLayout) -> tuple[int, str] | None:
    """The first record that is not the expected member or layout, and its fault.

    Args:
        heads: (N, HEAD_BYTES or more), each from the beginning of its tar header.
        names: (N,) the tar member that each should be.
    """
    record = heads[:, TAR_HEADER:HEAD_BYTES]
    model = _empty_record(layout)
    good = heads[:, :NAME_BYTES].view(f"S{NAME_BYTES}")[:, 0] == names
    good &= (record[:, :_SIZE_FIELD] == model[:_SIZE_FIELD]).all(1)
    good &= (record[:, _TOP_FIELD : _TOP_FIELD + 8] == model[_TOP_FIELD : _TOP_FIELD + 8]).all(1)
    good &= _valid(record) <= layout.max_regions
    if good.all():
        return None
    slot = int(np.argmin(good))
    found = bytes(heads[slot, :NAME_BYTES]).rstrip(b"\0")
    if found != names[slot]:
        return slot, f"holds {found[:_SHOWN_BYTES]!r} where {bytes(names[slot])!r} should be"
    key = bytes(names[slot]).removesuffix(b".rgn").decode()
    try:
        theirs, _, _ = decode_layout(key, bytes(record[slot]))
    except ShardError as error:
        return slot, str(error).partition(";")[0]
    return slot, f"key {key}: {_words(theirs)}, but the manifest says {_words(layout)}"


def find_bad_value(heads: Bytes, layout: RegionLayout, num_labels: int) -> tuple[int, str] | None:
    """The first record with an unknown label, or a box or scale that is not finite.

    One of them would end a GPU's process, or make the gradient of a whole batch useless.

    Args:
        heads: (B, TAR_HEADER + layout.features_offset) everything before the features.
    """
    count, regions = len(heads), layout.max_regions
    real = np.arange(regions)[None, :] < _valid(heads[:, TAR_HEADER:])[:, None]
    labels = _field(heads, layout.labels_offset, "<i2", regions)
    boxes = _field(heads, _BOXES_FIELD, "<f4", 4 * regions).reshape(count, regions, 4)
    # By the bits of a half float: its exponent is all ones. NumPy's arithmetic on halves is slow.
    scales = _field(heads, layout.scales_offset, "<u2", regions) & 0x7C00
    bad_label = ((labels < 0) | (labels >= num_labels)) & real
    bad_number = ((scales == 0x7C00) | ~np.isfinite(boxes).all(2)) & real
    if not (bad_label.any() or bad_number.any()):
        return None
    slot = int(np.argmax((bad_label | bad_number).any(1)))
    if bad_label[slot].any():
        return slot, f"label {labels[slot][bad_label[slot]][0]}, but the manifest has {num_labels}"
    return slot, "a box or a scale that is not finite"


def find_bad_class_scores(heads: Bytes, layout: RegionLayout, num_labels: int) -> tuple[int, str] | None:
    """The first record whose background or best classes are no probabilities of known classes. Arguments as above."""
    real = np.arange(layout.max_regions)[None, :] < _valid(heads[:, TAR_HEADER:])[:, None]
    bad = ~_are_probabilities(_field(heads, layout.background_offset, "<f2", layout.max_regions)) & real
    if layout.num_top:
        labels, scores = _best_classes(heads, layout, layout.max_regions)
        bad |= ~(_are_probabilities(scores) & (labels >= 0) & (labels < num_labels)).all(2) & real
    if not bad.any():
        return None
    return int(np.argmax(bad.any(1))), "class scores that are no probabilities of known classes"


def decode_class_scores(heads: Bytes, codes: Bytes, layout: RegionLayout, mask: Tensor, out: Tensor) -> None:
    """Fill `out` (B, R, 1 + C) with the distributions of the first R regions, from bytes or from the best classes.

    Where there is no region the background is certain.

    Args:
        heads: (B, TAR_HEADER + layout.features_offset) everything before the features.
        codes: (B, R x C) of the first R regions; C is 0 where records hold best classes alone.
        mask: (B, R) True where there is a region.
    """
    count, width = mask.shape
    background = np.where(mask.numpy(), _field(heads, layout.background_offset, "<f2", width), 1).astype(np.float32)
    if layout.num_classes:
        _decode_codes(torch.from_numpy(codes).view(count, width, layout.num_classes), torch.from_numpy(background), out)
    else:
        labels, scores = _best_classes(heads, layout, width)
        spread_best_classes(labels, scores.astype(np.float32), background, out.numpy())


def _decode_codes(codes: Tensor, background: Tensor, out: Tensor) -> None:
    """As `dequantise_class_scores`, in a third of its time, picture by picture as each fits in the cache."""
    for place, theirs in enumerate(codes):
        foreground = out[place, :, 1:]
        foreground.copy_(theirs).square_().square_()
        total = foreground.sum(-1)
        foreground.mul_(((1 - background[place]) / total.clamp(min=1))[:, None])
        out[place, :, 0] = torch.where(total > 0, background[place], 1.0)


def count_regions(
    records: Bytes, layout: RegionLayout, adaptive: AdaptiveRegions | None = None
) -> npt.NDArray[np.int64]:
    """How many regions of each record are read: all, or as many as score well, which are the first ones.

    Args:
        records: (B, 64 or more) each from its beginning; with a rule, up to the features.
    """
    valid = _valid(records)
    if adaptive is None:
        return valid
    scores = records[:, layout.scores_offset : layout.scores_offset + 2 * layout.max_regions].view("<f2")
    passes = (scores.astype(np.float32) > adaptive.score) & (np.arange(layout.max_regions)[None, :] < valid[:, None])
    return np.minimum(valid, np.maximum(passes.sum(1), adaptive.least))


def to_regions(
    heads: Bytes, features: Tensor, layout: RegionLayout, adaptive: AdaptiveRegions | None = None
) -> Regions:
    """Convert records to tensors; R is the most regions in one of them, at least 1.

    Args:
        heads: (B, TAR_HEADER + layout.features_offset) everything before the features.
        features: (B, W, D) of the first W regions. The result shares its memory.
        adaptive: leaves out regions that score less. None: leaves out none.
    """
    count = len(heads)
    valid = count_regions(heads[:, TAR_HEADER:], layout, adaptive)
    width = max(1, min(features.shape[1], int(valid.max(initial=0))))

    def field(offset: int, dtype: str, columns: int) -> npt.NDArray[Any]:
        return _field(heads, offset, dtype, columns)

    return Regions(
        features=features[:, :width],
        scales=torch.from_numpy(field(layout.scales_offset, "<f2", width).astype(np.float32)),
        boxes=torch.from_numpy(field(_BOXES_FIELD, "<f4", 4 * width).reshape(count, width, 4).copy()),
        sizes=torch.from_numpy(field(_SIZE_FIELD, "<u4", 2).astype(np.float32)),
        labels=torch.from_numpy(field(layout.labels_offset, "<i2", width).astype(np.int64)),
        scores=torch.from_numpy(field(layout.scores_offset, "<f2", width).astype(np.float32)),
        background=torch.from_numpy(field(layout.background_offset, "<f2", width).astype(np.float32)),
        mask=torch.from_numpy(np.arange(width)[None, :] < valid[:, None]),
    )


class Buffers:
    """Memory for features, reused once no tensor refers to it: fresh pages cost more than filling them."""

    def __init__(self) -> None:
        self._free: list[Bytes] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of `size` bytes or more, with whatever was in it before."""
        with self._lock:
            fits = [slot for slot, buffer in enumerate(self._free) if len(buffer) >= size]
            return self._free.pop(fits[0]) if fits else np.empty(size, np.uint8)

    def lend(self, buffer: Bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
        """Wrap the beginning of a buffer as a tensor. The buffer comes back with the last tensor on its storage."""
        view = buffer[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        # The storage keeps this very array, while arrays made from it would refer to the buffer directly.
        weakref.finalize(view, self._give_back, buffer).atexit = False
        return torch.from_numpy(view)

    def _give_back(self, buffer: Bytes) -> None:
        with self._lock:
            self._free = [*self._free, buffer][-_BUFFERS_KEPT:]


def _field(heads: Bytes, offset: int, dtype: str, columns: int) -> npt.NDArray[Any]:
    """One field (B, columns) of each record, at this offset."""
    first = TAR_HEADER + offset
    return heads[:, first : first + columns * np.dtype(dtype).itemsize].view(dtype)


def _best_classes(heads: Bytes, layout: RegionLayout, width: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Labels and scores (B, width, T) of the best classes."""
    shape, columns = (len(heads), width, layout.num_top), width * layout.num_top
    labels = _field(heads, layout.top_labels_offset, "<i2", columns).reshape(shape)
    return labels, _field(heads, layout.top_scores_offset, "<f2", columns).reshape(shape)


def _are_probabilities(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray((values >= 0) & (values <= 1))


def _valid(record: Bytes) -> npt.NDArray[np.int64]:
    return record[:, _VALID_FIELD : _VALID_FIELD + 4].view("<u4").astype(np.int64)[:, 0]


@lru_cache
def _empty_record(layout: RegionLayout) -> Bytes:
    """A record without regions; the layout in its header is that of every other."""
    none, top = np.zeros(0, np.float32), np.zeros((0, layout.num_top), np.float32)
    sample = RegionSample(
        key="",
        size=(1, 1),
        boxes=np.zeros((0, 4), np.float32),
        labels=none.astype(np.int16),
        scores=none,
        background=none,
        features=np.zeros((0, layout.feature_dim), np.float32),
        top_labels=top.astype(np.int16) if layout.num_top else None,
        top_scores=top if layout.num_top else None,
        class_scores=np.zeros((0, 1 + layout.num_classes), np.float32) if layout.num_classes else None,
    )
    return np.frombuffer(encode_regions(sample, layout), np.uint8)[: HEAD_BYTES - TAR_HEADER].copy()


def _words(layout: RegionLayout) -> str:
    top = "" if layout.class_scores == "none" else f" with class scores {layout.class_scores}"
    return f"{layout.max_regions} regions x {layout.feature_dim}, {layout.encoding}{top}"
