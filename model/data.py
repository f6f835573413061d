"""Feature shards and captions to padded batches.

Records are read by position straight into the rows of a batch; bytes stay uint8 until the device (`dequantise` in
`encoder.py`). The order of samples is a pure function of (seed, epoch, dataset), so its whole state is one step number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from feature_extraction.samples import FeatureManifest, ShardError, parse_manifest
from model.config import FeatureSource
from model.errors import InputError
from model.masking import IGNORE, generator

T = TypeVar("T")
Index = npt.NDArray[np.int64]
_TAR_HEADER = 512
_WINDOW_SHARDS = 16


@dataclass(frozen=True)
class Movable:
    """A record of tensors, or of other such records, that goes to a device as a whole."""

    def to(self, device: torch.device) -> Self:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class _Rows(Movable):
    """Tensors that share their first dimension."""

    def take(self, index: Tensor) -> Self:
        """Rows by position, repeats allowed."""
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


@dataclass(frozen=True)
class Captions:
    """The captions of one split, in row order, with the position of each one's image in the feature store."""

    ids: list[str]
    texts: list[str]
    image_rows: Index

    @property
    def images(self) -> Index:
        """Feature-store positions of the images that have a caption, ascending."""
        return np.unique(self.image_rows)

    @property
    def image_of(self) -> Index:
        """For each caption, the position of its image in `images`."""
        return np.searchsorted(self.images, self.image_rows)


class FeatureStore:
    """Random access to the regions of one feature set on a local disk."""

    def __init__(self, folder: str | Path) -> None:
        """Open every shard and index its keys.

        Raises:
            ShardError: the manifest is absent, or a shard is missing, of another size or not in order.
        """
        self.folder = Path(folder)
        manifest = self.folder / "manifest.json"
        if not manifest.is_file():
            raise ShardError(f"{manifest} is missing: this feature set is not finished; run `unicoder-vl extract`")
        self.manifest: FeatureManifest = parse_manifest(manifest.read_bytes(), str(manifest))
        self.layout = self.manifest.layout
        self._files: list[int] = []
        self.keys: list[str] = []
        shards: list[Index] = []
        for number, entry in enumerate(self.manifest.shards):
            file = self.folder / entry.name
            if not file.is_file() or file.stat().st_size != entry.bytes:
                raise ShardError(f"{file} is missing or has not the {entry.bytes} bytes of the manifest; extract again")
            self._files.append(os.open(file, os.O_RDONLY))
            self.keys.extend(self._read_keys(number, entry.samples))
            shards.append(np.full(entry.samples, number, np.int64))
        self.shard_of = np.concatenate(shards) if shards else np.zeros(0, np.int64)
        first = np.zeros(len(self.manifest.shards) + 1, np.int64)
        np.cumsum([entry.samples for entry in self.manifest.shards], out=first[1:])
        self._row_in_shard = np.arange(len(self.shard_of)) - first[self.shard_of]

    def __len__(self) -> int:
        return len(self.keys)

    def close(self) -> None:
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []

    def _read_keys(self, shard: int, samples: int) -> Iterator[str]:
        name = self.manifest.shards[shard].name
        for position in range(samples):
            header = os.pread(self._files[shard], 100, position * self.layout.tar_bytes)
            key, _, extension = header.rstrip(b"\0").decode("ascii", "replace").partition(".")
            if extension != "rgn":
                raise ShardError(f"{name}: member {position} is not where the layout says; extract this shard again")
            yield key

    def read(self, rows: Sequence[int] | Index, max_regions: int) -> Regions:
        """The first `max_regions` regions of these images, in this order; R is the most that one of them has."""
        layout, count = self.layout, len(rows)
        width = min(max_regions, layout.max_regions)
        item = layout.feature_dtype.itemsize
        used = layout.features_offset + width * layout.feature_dim * item
        buffer = np.empty((count, -(-used // 64) * 64), np.uint8)
        for slot, row in enumerate(rows):
            shard = int(self.shard_of[row])
            offset = int(self._row_in_shard[row]) * layout.tar_bytes + _TAR_HEADER
            got = os.preadv(self._files[shard], [memoryview(buffer[slot])[:used]], offset)
            if got != used:
                raise ShardError(f"{self.manifest.shards[shard].name}, key {self.keys[row]}: cut; extract it again")
        header = buffer[:, :64]
        if not (header[:, :4] == np.frombuffer(b"RGN1", np.uint8)).all():
            raise ShardError(f"{self.folder}: a record does not begin with RGN1; extract this feature set again")

        def field(offset: int, dtype: str, columns: int) -> npt.NDArray[np.generic]:
            size = np.dtype(dtype).itemsize
            return buffer[:, offset : offset + columns * size].view(dtype)

        sizes = field(12, "<u4", 2).astype(np.float32)
        valid = field(20, "<u4", 1).astype(np.int64)[:, 0]
        width = max(1, min(width, int(valid.max(initial=0))))
        raw = field(layout.features_offset, layout.feature_dtype.str, width * layout.feature_dim)
        return Regions(
            features=torch.from_numpy(raw.reshape(count, width, layout.feature_dim)),
            scales=torch.from_numpy(field(layout.scales_offset, "<f2", width).astype(np.float32)),
            boxes=torch.from_numpy(field(64, "<f4", 4 * width).reshape(count, width, 4).copy()),
            sizes=torch.from_numpy(sizes),
            labels=torch.from_numpy(field(layout.labels_offset, "<i2", width).astype(np.int64)),
            scores=torch.from_numpy(field(layout.scores_offset, "<f2", width).astype(np.float32)),
            background=torch.from_numpy(field(layout.background_offset, "<f2", width).astype(np.float32)),
            mask=torch.from_numpy(np.arange(width)[None, :] < valid[:, None]),
        )


def load_captions(source: FeatureSource, store: FeatureStore) -> Captions:
    """The captions whose image has regions. Rows of images whose extraction failed are left out.

    Raises:
        InputError: no caption has an image in the feature set.
    """
    table = pq.read_table(source.captions_path, columns=["caption_id", "image_key", "text"])
    position = {key: row for row, key in enumerate(store.keys)}
    rows = np.array([position.get(key, -1) for key in table["image_key"].to_pylist()], np.int64)
    kept = rows >= 0
    if not kept.any():
        raise InputError(f"{source.name}: none of {len(rows)} captions has an image among {len(store)} feature records")
    ids = [value for value, keep in zip(table["caption_id"].to_pylist(), kept, strict=True) if keep]
    texts = [value for value, keep in zip(table["text"].to_pylist(), kept, strict=True) if keep]
    return Captions(ids, texts, rows[kept])


def pad_words(rows: Sequence[npt.NDArray[np.int32]], pad_id: int) -> Words:
    """Token rows to one rectangle."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.bool_)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = row
        mask[slot, : len(row)] = True
    return Words(torch.from_numpy(ids), torch.from_numpy(mask))


def pad_targets(rows: Sequence[npt.NDArray[np.int64]], width: int) -> Tensor:
    """Target rows to one rectangle, IGNORE where there is nothing."""
    targets = np.full((len(rows), width), IGNORE, np.int64)
    for slot, row in enumerate(rows):
        targets[slot, : len(row)] = row
    return torch.from_numpy(targets)


def epoch_order(seed: int, epoch: int, shards: Index, window: int = _WINDOW_SHARDS) -> Index:
    """Every sample once: shards are shuffled, then the samples within each window of shards.

    Args:
        shards: (N,) the shard of each sample.

    Returns:
        (N,) a permutation; a pure function of the arguments.
    """
    rng = generator(seed, "order", epoch)
    count = int(shards.max()) + 1 if len(shards) else 0
    group = rng.permutation(count) // window
    return np.lexsort((rng.random(len(shards)), group[shards]))


class BatchOrder:
    """Which samples make up step s: positions [s B, (s + 1) B) of the endless run of epochs.

    A batch may begin in one epoch and end in the next, so no sample is ever left out.
    """

    def __init__(self, seed: int, batch_size: int, shards: Index) -> None:
        self._seed, self._batch_size, self._shards = seed, batch_size, shards
        self._cached: tuple[int, Index] = (-1, shards[:0])

    def step(self, step: int) -> list[tuple[int, int]]:
        """(epoch, sample) of every place in the batch of this step."""
        count, first = len(self._shards), step * self._batch_size
        return [
            (place // count, int(self._epoch(place // count)[place % count]))
            for place in range(first, first + self._batch_size)
        ]

    def _epoch(self, epoch: int) -> Index:
        if self._cached[0] != epoch:
            self._cached = (epoch, epoch_order(self._seed, epoch, self._shards))
        return self._cached[1]


def prefetch(make: Callable[[int], T], first: int, stop: int) -> Iterator[T]:
    """make(first), ..., make(stop - 1), each prepared by a thread while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        ahead = pool.submit(make, first) if first < stop else None
        for step in range(first, stop):
            assert ahead is not None
            current = ahead.result()
            ahead = pool.submit(make, step + 1) if step + 1 < stop else None
            yield current
